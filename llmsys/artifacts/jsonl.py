"""JSON Lines in and out: numbered lines, typed records, one line per record.

Knows no record's fields: the type decides them. Fields that a type does not have are passed over, so that an older
reader takes a newer writer's lines.
"""

import re
from collections.abc import Callable, Iterator
from io import BufferedIOBase
from pathlib import Path
from typing import TypeVar, cast

import msgspec

from llmsys.artifacts.compressed import open_source, reading_faults, source_name
from llmsys.errors import BadInput

__all__ = ["MAX_LINE_BYTES", "decode_record", "encode", "read_line_blocks", "read_lines", "read_records"]

MAX_LINE_BYTES = 64 * 2**20
BLOCK_BYTES = 2**18
UTF8_MARK = b"\xef\xbb\xbf"
WIDE_MARKS = (b"\xff\xfe", b"\xfe\xff")

Fault = tuple[str, str]
T = TypeVar("T")

DECODE_FAULTS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_EXPECTED = re.compile(r"Expected (?P<right>.*?)(?:, got (?P<got>.*?))?(?: - at `(?P<path>.*)`)?", re.DOTALL)
_ENCODE = msgspec.json.Encoder().encode


def encode(record: object) -> bytes:
    """One JSON line, newline included, of a Struct, a dataclass or plain values. NaN and infinities become null."""
    return _ENCODE(record) + b"\n"


def read_lines(source: str | Path) -> Iterator[tuple[int, bytes]]:
    """Yield (number from 1, line without its newline) of a file, or of stdin for `-`.

    `.gz` and `.zst` are decompressed. Blank lines count and come as they are, the last line needs no newline, a UTF-8
    byte order mark is dropped. Raises BadInput for a line over MAX_LINE_BYTES, UTF-16, and a cut or damaged archive;
    OSError for a file that cannot be read.
    """
    with open_source(source) as stream, reading_faults(source):
        number = 0
        while line := stream.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
                where = f"{source_name(source)}:{number}"
                raise BadInput(where, f"a line over {MAX_LINE_BYTES >> 20} MiB", "one record per line")
            yield number, (line if number > 1 else _without_mark(line, source)).removesuffix(b"\n")


def read_line_blocks(source: str | Path) -> Iterator[tuple[int, list[bytes]]]:
    """Yield (number of the first line, lines) as the bytes come in: the lines of `read_lines`, many at a time.

    Waits for no more than the next byte, so a block from a pipe may be short. Raises as `read_lines`.
    """
    with open_source(source) as stream, reading_faults(source):
        read = cast("BufferedIOBase", stream).read1
        number, parts, held = 1, list[bytes](), 0
        while chunk := read(BLOCK_BYTES):
            parts.append(chunk)
            held += len(chunk)
            if b"\n" in chunk:
                lines = b"".join(parts).split(b"\n")
                parts = [lines.pop()]
                held = len(parts[0])
                yield number, _checked(lines, source, number)
                number += len(lines)
            elif held > MAX_LINE_BYTES:
                break
        if held > MAX_LINE_BYTES:
            _checked([b"".join(parts)], source, number)
        if last := b"".join(parts):
            yield number, _checked([last], source, number)


def _checked(lines: list[bytes], source: str | Path, number: int) -> list[bytes]:
    if number == 1 and lines:
        lines[0] = _without_mark(lines[0], source)
    if len(max(lines, key=len, default=b"")) > MAX_LINE_BYTES:
        at = number + next(place for place, line in enumerate(lines) if len(line) > MAX_LINE_BYTES)
        raise BadInput(f"{source_name(source)}:{at}", f"a line over {MAX_LINE_BYTES >> 20} MiB", "one record per line")
    return lines


def read_records(
    source: str | Path,
    kind: type[T],
    *,
    on_error: str = "fail",
    on_skip: Callable[[BadInput], None] | None = None,
    check: Callable[[T], Fault | None] | None = None,
) -> Iterator[T]:
    """Yield one `kind` per line that is not blank.

    `check` looks at each record and returns None, or what is wrong and what would be right. A line that does not fit
    raises BadInput at FILE:LINE; with on_error "skip" it goes to `on_skip` instead, and reading goes on. Faults of the
    file itself (see `read_lines`) always raise.
    """
    if on_error not in ("fail", "skip"):
        raise ValueError(f"on_error is {on_error!r}; expected 'fail' or 'skip'")
    return _records(source, msgspec.json.Decoder(kind), on_skip if on_error == "skip" else _raise, check)


def decode_record(line: bytes, decoder: msgspec.json.Decoder[T], where: str) -> T:
    """One record of one line. Raises BadInput at `where`, with the path of the field that does not fit."""
    try:
        return _decode(line, decoder)
    except DECODE_FAULTS as error:
        raise BadInput(where, *_explained(error)) from error


def _records(
    source: str | Path,
    decoder: msgspec.json.Decoder[T],
    refuse: Callable[[BadInput], None] | None,
    check: Callable[[T], Fault | None] | None,
) -> Iterator[T]:
    name = source_name(source)
    for number, line in read_lines(source):
        try:
            record = _decode(line, decoder)
            fault = None if check is None else check(record)
        except DECODE_FAULTS as error:
            if not line or line.isspace():
                continue
            fault = _explained(error)
        if fault is None:
            yield record
        elif refuse is not None:
            refuse(BadInput(f"{name}:{number}", *fault))


def _decode(line: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    if not line.isascii():
        line.decode()  # the decoder leaves fields that it passes over unchecked
    return decoder.decode(line)


def _raise(error: BadInput) -> None:
    raise error


def _without_mark(line: bytes, source: str | Path) -> bytes:
    if line.startswith(WIDE_MARKS):
        raise BadInput(f"{source_name(source)}:1", "UTF-16 text", "UTF-8 text")
    return line.removeprefix(UTF8_MARK)


def _explained(error: Exception) -> Fault:
    """What is wrong and what would be right."""
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 (byte {error.start})", "UTF-8 text"
    if isinstance(error, RecursionError):
        return "nested too deeply", "a record of ordinary depth"
    if isinstance(error, msgspec.ValidationError):
        return _retold(str(error))
    return _lowered(str(error)), "one JSON object per line"


def _retold(message: str) -> Fault:
    """The two halves of msgspec's sentence.

    >>> _retold("Expected `int`, got `str` - at `$.prompt_tokens`")
    ('`str` at `$.prompt_tokens`', '`int`')
    """
    found = _EXPECTED.fullmatch(message)
    if found is None:
        return _lowered(message), "a record of this format"
    wrong = found["got"] or "a value out of range"
    return (f"{wrong} at `{found['path']}`" if found["path"] else wrong), found["right"]


def _lowered(message: str) -> str:
    return message if message.startswith("JSON") else message[:1].lower() + message[1:]
