"""What a compressed file says of each tensor: shape, codec, where its chunks are and what they must hash to.

Everything here may come from a stranger: `check_entry` compares what is claimed with what is there before anything is
allocated. Knows no codec's parameters.
"""

import math
from collections.abc import Collection
from typing import Annotated

import msgspec
import xxhash

from llmsys.compress.errors import BadBitstream
from llmsys.compress.number_formats import FORMATS, NumberFormat

__all__ = [
    "CHUNK_VALUES",
    "DOCUMENT_KEY",
    "VERSION",
    "WIDEST_LINE",
    "Chunk",
    "Document",
    "TensorEntry",
    "check_entry",
    "checksum_of",
]

DOCUMENT_KEY = "llmsys.compress"
VERSION = 1
CHUNK_VALUES = 1 << 20
WIDEST_LINE = 1 << 15

Count = Annotated[int, msgspec.Meta(ge=0)]


class Chunk(msgspec.Struct, frozen=True, array_like=True):
    """`lines` lines from first_line, in `length` bytes from `offset` of the tensor's, whose xxh3-64 is `checksum`."""

    first_line: Count
    lines: Count
    offset: Count
    length: Count
    checksum: Count


class TensorEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """A coded tensor: values in lines of `width`, coded by `codec`.

    `side` is length and xxh3-64 of what all chunks share. `nmse` is the mean squared error over the variance, of the
    values as they are decoded; None where every bit is kept.
    """

    shape: tuple[Count, ...]
    dtype: str
    codec: str
    width: int
    side: tuple[Count, Count]
    chunks: tuple[Chunk, ...] = ()
    nmse: float | None = None

    @property
    def values(self) -> int:
        """Numbers in the tensor."""
        return math.prod(self.shape)

    @property
    def format(self) -> NumberFormat:
        """The number format of the tensor."""
        return FORMATS[self.dtype]

    @property
    def stored_bytes(self) -> int:
        """Bytes of the shared part and of all chunks."""
        return self.side[0] + sum(chunk.length for chunk in self.chunks)

    def chunk_values(self, chunk: Chunk) -> int:
        """Numbers in a chunk; the last line of a tensor may be short."""
        start = chunk.first_line * self.width
        return min(self.values, start + chunk.lines * self.width) - start


class Document(msgspec.Struct, frozen=True):
    """What stands under the one metadata key of a file: its format's version, and every tensor's record by name.

    `checksum` is the xxh3-64 of the records as JSON.
    """

    version: int
    checksum: Count
    tensors: dict[str, TensorEntry]


def checksum_of(tensors: dict[str, TensorEntry]) -> int:
    """The xxh3-64 of records as they are written."""
    return xxhash.xxh3_64_intdigest(msgspec.json.encode(tensors))


def check_entry(entry: TensorEntry, *, stored_bytes: int, codecs: Collection[str], where: str) -> None:
    """Refuse an entry that contradicts itself or the bytes that are there. Raises BadBitstream at `where`."""
    if entry.dtype not in FORMATS:
        raise BadBitstream(where, f"number format {entry.dtype!r}", f"one of {', '.join(FORMATS)}")
    if entry.codec not in codecs:
        raise BadBitstream(where, f"codec {entry.codec!r}", f"one of {', '.join(sorted(codecs))}")
    if not 1 <= entry.width <= WIDEST_LINE:
        raise BadBitstream(where, f"lines of {entry.width} values", f"1 to {WIDEST_LINE}")
    if entry.stored_bytes != stored_bytes:
        raise BadBitstream(where, f"{entry.stored_bytes} bytes in its table", f"the {stored_bytes} that are there")
    lines, offset = 0, entry.side[0]
    for number, chunk in enumerate(entry.chunks):
        at = f"{where}: chunk {number}"
        if (chunk.first_line, chunk.offset) != (lines, offset):
            raise BadBitstream(at, f"line {chunk.first_line} at byte {chunk.offset}", f"line {lines} at byte {offset}")
        if not 0 < chunk.lines * entry.width <= CHUNK_VALUES:
            raise BadBitstream(at, f"{chunk.lines} lines of {entry.width} values", f"1 to {CHUNK_VALUES} values")
        lines, offset = lines + chunk.lines, offset + chunk.length
    if entry.chunks and lines != -(-entry.values // entry.width):
        raise BadBitstream(where, f"chunks of {lines} lines", f"{entry.values} values in lines of {entry.width}")
    if not entry.chunks and entry.values and entry.codec != "constant":
        raise BadBitstream(where, f"no chunks for {entry.values} values", "at least one")
