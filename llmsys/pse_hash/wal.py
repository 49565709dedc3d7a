"""The log of updates: one JSON line each behind a CRC-32, appended in order.

A last line that is cut or damaged is the trace of a crash and is left out; a bad line before good ones is corruption.
Knows no points.
"""

import os
import zlib
from pathlib import Path

import msgspec

from llmsys.pse_hash.faults import Corrupt

__all__ = ["Log", "Update", "read_log"]

CRC_DIGITS = 8


class Update(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of a stream: `op` insert, delete or replace; `x` and the weight `w` for the first and the last."""

    op: str
    id: str
    x: tuple[float, ...] | None = None
    w: float | None = None

    def fault(self) -> tuple[str, str] | None:
        """What is wrong with the line by itself, and what would be right."""
        if self.op not in ("insert", "delete", "replace"):
            return f"op {self.op!r}", "insert, delete or replace"
        if (self.x is None) != (self.op == "delete"):
            return ("no vector `x`", f"one for {self.op}") if self.x is None else ("a vector `x`", "none for delete")
        if self.w is not None and not 0 <= self.w < float("inf"):
            return f"weight {self.w:g}", "a number >= 0"
        return None


class Log:
    """A log open for appending; `sync` makes durable what was appended before."""

    def __init__(self, path: Path, size: int) -> None:
        """Open a log and cut it to `size` bytes, which drops a torn line for good."""
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        os.ftruncate(self._file, size)
        os.lseek(self._file, size, os.SEEK_SET)

    def append(self, updates: list[Update]) -> None:
        """Write updates in their order. Raises OSError for a full disk."""
        data = memoryview(b"".join(_line(update) for update in updates))
        while data:
            data = data[os.write(self._file, data) :]

    def sync(self) -> None:
        """Make everything appended durable."""
        os.fsync(self._file)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def read_log(path: Path) -> tuple[list[Update], int, int]:
    """(updates, bytes that they fill, bytes of a torn last line). Raises Corrupt for a bad line before good ones."""
    data = path.read_bytes() if path.exists() else b""
    updates: list[Update] = []
    decoder, good = msgspec.json.Decoder(Update), 0
    while good < len(data):
        end = data.find(b"\n", good) + 1
        update = _read(data[good:end], decoder) if end else None
        if update is None:
            if end and any(_read(line, decoder) for line in data[end:].splitlines(keepends=True)):
                raise Corrupt(f"{path}:{len(updates) + 1}", "a damaged record before good ones", "what llmsys wrote")
            break
        updates.append(update)
        good = end
    return updates, good, len(data) - good


def _line(update: Update) -> bytes:
    text = msgspec.json.encode(update)
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _read(line: bytes, decoder: msgspec.json.Decoder[Update]) -> Update | None:
    text = line[CRC_DIGITS + 1 : -1]
    if not line.endswith(b"\n") or line[:CRC_DIGITS] != b"%08x" % zlib.crc32(text):
        return None
    try:
        return decoder.decode(text)
    except msgspec.DecodeError:
        return None
