"""The write-ahead log: `length | xxh64 | seq | type | payload`, appended in groups, one fsync per group.

A last record that is cut or damaged is the trace of a crash: it is dropped and said. A bad record with good ones after
it is corruption. Knows the meaning of no record.
"""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import xxhash

from llmsys.errors import LlmsysError
from llmsys.vindex.faults import Corrupt

__all__ = ["Log", "LogRecord", "LogScan", "scan_log"]

HEADER = struct.Struct("<IQQB")
SEQ = struct.Struct("<Q")
SEQ_AT = 12
LOOK_AHEAD = 64


@dataclass(frozen=True, slots=True)
class LogRecord:
    """One record: its place in the file, its number, what it is."""

    offset: int
    seq: int
    kind: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class LogScan:
    """The good records of a log, the bytes that they fill, and the bytes of a torn last one (0 if there is none)."""

    records: tuple[LogRecord, ...]
    good_bytes: int
    torn_bytes: int


class Log:
    """A log open for appending; nothing is durable before `commit` returns."""

    def __init__(self, path: Path, size: int) -> None:
        """Open a log and cut it to `size` bytes, which drops a torn record for good."""
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        os.ftruncate(self._file, size)
        os.lseek(self._file, size, os.SEEK_SET)
        self._pending: list[bytes] = []
        self._broken = False
        self.bytes = size

    def append(self, seq: int, kind: int, payload: bytes) -> None:
        """Take a record, to be written with the next commit. Raises LlmsysError once a commit has failed."""
        if self._broken:
            raise LlmsysError(f"{self._path}: an earlier write failed; open the index again")
        self._pending.append(_framed(seq, kind, payload))

    def commit(self) -> None:
        """Write and sync what was appended. After a failure (OSError) the log takes nothing more."""
        if not self._pending:
            return
        data = memoryview(b"".join(self._pending))
        self._pending = []
        self._broken = True
        self.bytes += len(data)
        try:
            while data:
                data = data[os.write(self._file, data) :]
            os.fsync(self._file)
        except OSError as error:
            error.filename = str(self._path)
            raise
        self._broken = False

    def close(self) -> None:
        """Close the file; what was not committed is dropped."""
        os.close(self._file)


def scan_log(path: Path, after_seq: int, start: int = 0) -> LogScan:
    """Read a log from `start`, where the record behind `after_seq` stands; offsets count from there.

    Raises Corrupt for a bad record before good ones.
    """
    with path.open("rb") as stream:
        stream.seek(start)
        data = stream.read()
    records = tuple(_records(data, after_seq))
    end = records[-1].offset + HEADER.size + len(records[-1].payload) if records else 0
    last = records[-1].seq if records else after_seq
    if end < len(data) and _good_one_follows(data, end, last):
        raise Corrupt(
            f"{path}: offset {start + end}", f"record {last + 1} is damaged", "a whole record before later ones"
        )
    return LogScan(records, end, len(data) - end)


def _framed(seq: int, kind: int, payload: bytes) -> bytes:
    return HEADER.pack(len(payload), _digest(len(payload), seq, kind, payload), seq, kind) + payload


def _digest(length: int, seq: int, kind: int, payload: bytes) -> int:
    digest = xxhash.xxh64(HEADER.pack(length, 0, seq, kind))
    digest.update(payload)
    return digest.intdigest()


def _record_at(data: bytes, offset: int) -> LogRecord | None:
    """The record that starts here, None if it is cut or its checksum does not hold."""
    if offset < 0 or offset + HEADER.size > len(data):
        return None
    length, digest, seq, kind = HEADER.unpack_from(data, offset)
    start = offset + HEADER.size
    if length > len(data) - start:
        return None
    payload = data[start : start + length]
    return LogRecord(offset, seq, kind, payload) if digest == _digest(length, seq, kind, payload) else None


def _records(data: bytes, seq: int) -> Iterator[LogRecord]:
    offset = 0
    while (record := _record_at(data, offset)) is not None and record.seq == seq + 1:
        yield record
        seq = record.seq
        offset += HEADER.size + len(record.payload)


def _good_one_follows(data: bytes, start: int, last: int) -> bool:
    """Whether a good record with one of the next LOOK_AHEAD numbers stands anywhere behind `start`."""
    for seq in range(last + 1, last + LOOK_AHEAD + 1):
        at = data.find(SEQ.pack(seq), start)
        while at >= 0:
            record = _record_at(data, at - SEQ_AT)
            if record is not None and record.offset >= start:
                return True
            at = data.find(SEQ.pack(seq), at + 1)
    return False
