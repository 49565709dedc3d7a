"""Records out of a verb: JSON Lines on stdout, or into a file that appears whole or not at all.

Knows no record's fields. `-` is stdout.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

__all__ = ["RecordWriter", "records_out"]


class RecordWriter:
    """Writes one JSON line per record to a binary stream."""

    def __init__(self, stream: BinaryIO, *, flush_each: bool) -> None:
        import orjson

        self._dumps = orjson.dumps
        self._options = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE
        self._stream = stream
        self._flush_each = flush_each
        self.written = 0

    def write(self, record: object) -> None:
        """Write a record: a dict, a dataclass or a msgspec Struct."""
        self.write_line(self._dumps(record, default=_plain, option=self._options))

    def write_line(self, line: bytes) -> None:
        """Write bytes that are one line already, newline included."""
        self._stream.write(line)
        self.written += 1
        if self._flush_each:
            self._stream.flush()


def _plain(value: object) -> object:
    """What orjson does not write by itself: Structs and paths."""
    import msgspec

    if isinstance(value, Path):
        return str(value)
    return msgspec.to_builtins(value)


@contextmanager
def records_out(path: str = "-", *, flush_each: bool = False) -> Iterator[RecordWriter]:
    """A writer of records to stdout, or to a file that appears whole or not at all.

    A reader of stdout that went away raises typer.Exit(0), a full disk LlmsysError naming the stream (`_stdio`).
    """
    if path != "-":
        from llmsys.artifacts import replace_file

        with replace_file(Path(path)) as stream:
            yield RecordWriter(stream, flush_each=flush_each)
        return
    sys.stdout.flush()  # what was written as text comes first
    yield RecordWriter(sys.stdout.buffer, flush_each=flush_each or sys.stdout.isatty())
    sys.stdout.buffer.flush()
