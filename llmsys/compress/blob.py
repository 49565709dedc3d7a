"""A coded tensor as one string of bytes that says by itself what it is: what crosses a wire or waits in memory.

    b"LLMSBLB1"  u32 record bytes  u64 xxh3-64 of the record  record (JSON)  the tensor's bytes

Knows no codec.
"""

import struct
from functools import cached_property

import msgspec
import xxhash

from llmsys.compress.codecs import CODECS
from llmsys.compress.coded import Coded
from llmsys.compress.errors import BadBitstream
from llmsys.compress.records import TensorEntry, check_entry

__all__ = ["Blob", "blob_of"]

MAGIC = b"LLMSBLB1"
HEAD = struct.Struct("<IQ")


class Blob(bytes):
    """The bytes of a coded tensor; `shape`, `nmse` and `bits` (per value, every byte counted) are read from them."""

    @cached_property
    def _entry(self) -> TensorEntry:
        return self.parts()[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the tensor."""
        return self._entry.shape

    @property
    def nmse(self) -> float | None:
        """Mean squared error over variance; None where every bit is kept."""
        return self._entry.nmse

    @property
    def bits(self) -> float:
        """Bits per value, record and all."""
        return 8 * len(self) / max(1, self._entry.values)

    def parts(self) -> tuple[TensorEntry, bytes]:
        """The record and the bytes that it describes. Raises BadBitstream for what no `blob_of` made."""
        start = len(MAGIC) + HEAD.size
        if self[: len(MAGIC)] != MAGIC or len(self) < start:
            raise BadBitstream("blob", f"starts with {bytes(self[:8])!r}", f"{MAGIC!r}")
        length, checksum = HEAD.unpack_from(self, len(MAGIC))
        record = bytes(self[start : start + length])
        if xxhash.xxh3_64_intdigest(record) != checksum:
            raise BadBitstream("blob", "a record that does not match its checksum", "what encode made")
        try:
            entry = msgspec.json.decode(record, type=TensorEntry)
        except (msgspec.DecodeError, RecursionError) as error:
            raise BadBitstream("blob", f"no record ({error})", "what encode made") from error
        data = bytes(self[start + length :])
        check_entry(entry, stored_bytes=len(data), codecs=CODECS, where="blob")
        return entry, data


def blob_of(coded: Coded) -> Blob:
    """A coded tensor with its record."""
    record = msgspec.json.encode(coded.entry)
    return Blob(MAGIC + HEAD.pack(len(record), xxhash.xxh3_64_intdigest(record)) + record + coded.data)
