"""Records in and out of a verb: JSON Lines on stdout, a closed pipe that ends quietly, files written by rename.

Knows no record's fields. `-` is stdin or stdout.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import typer

from llmsys.errors import LlmsysError

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

    A reader that went away ends the verb with exit 0. A full disk raises LlmsysError naming the stream.
    """
    if path != "-":
        from llmsys.artifacts import replace_file

        with replace_file(Path(path)) as stream:
            yield RecordWriter(stream, flush_each=flush_each)
        return
    stdout = sys.stdout.buffer
    try:
        yield RecordWriter(stdout, flush_each=flush_each or sys.stdout.isatty())
        stdout.flush()
    except BrokenPipeError:
        _forget_stdout()
        raise typer.Exit(0) from None
    except OSError as error:
        if error.filename is not None:
            raise
        _forget_stdout()
        raise LlmsysError(f"stdout: {error.strerror}; the output is incomplete") from error


def _forget_stdout() -> None:
    """Point stdout at nothing, so that the interpreter's last flush cannot fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
