"""What passes between a tensor's source, a codec and a file: numbers read by span, and coded bytes with their record.

Knows no codec and no file format.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import xxhash
from numpy.typing import NDArray

from llmsys.compress.layout import Layout, layout_of
from llmsys.compress.number_formats import F32, NumberFormat, Words, from_words, of_array
from llmsys.compress.records import Chunk, TensorEntry

__all__ = ["Chunked", "Coded", "Numbers", "Target", "chunk_map", "in_memory", "pack"]


@dataclass(frozen=True, slots=True)
class Numbers:
    """A tensor that is read by spans of its values in C order, so that only a chunk is in memory.

    `read(start, stop)` gives words [stop − start]; reading the same span twice gives the same words.
    """

    name: str
    shape: tuple[int, ...]
    format: NumberFormat
    read: Callable[[int, int], Words]

    @property
    def layout(self) -> Layout:
        """Its lines and chunks."""
        return layout_of(self.shape)

    def floats(self, start: int, stop: int) -> F32:
        """A span as float32 [stop − start]."""
        return from_words(self.read(start, stop), self.format)


@dataclass(frozen=True, slots=True)
class Target:
    """What a codec has to reach: bytes for everything but the record, or an error, or a step or quality as given.

    Exactly one is set; `slack_bytes` is how far below `stored_bytes` is near enough.
    """

    stored_bytes: int | None = None
    slack_bytes: int = 0
    nmse: float | None = None
    step: float | None = None
    quality: float | None = None


@dataclass(frozen=True, slots=True)
class Coded:
    """A coded tensor: its record, and the bytes that the record describes: the shared part, then the chunks."""

    entry: TensorEntry
    blobs: list[bytes] = field(repr=False)

    @property
    def data(self) -> bytes:
        """All bytes, as they are stored."""
        return b"".join(self.blobs)


class Chunked(Protocol):
    """How a codec turns bytes back into numbers, one chunk at a time."""

    def __call__(self, entry: TensorEntry, side: bytes, payload: bytes, chunk: Chunk, where: str) -> Words:
        """Words of a chunk in the entry's number format. Raises BadBitstream at `where`."""
        ...


def in_memory(array: NDArray[Any], name: str = "array") -> Numbers:
    """A numpy array of numbers as a source. Raises ValueError for a dtype that is no number."""
    kind, words = of_array(array)
    return Numbers(name, array.shape, kind, lambda start, stop: words[start:stop])


def pack(
    numbers: Numbers,
    codec: str,
    side: bytes,
    payloads: Sequence[bytes],
    *,
    nmse: float | None = None,
    layout: Layout | None = None,
) -> Coded:
    """Put coded chunks, in order, and what they share together with the record that describes them."""
    layout = layout or numbers.layout
    offset, table = len(side), []
    for (first, lines), payload in zip(layout.chunks() if payloads else (), payloads, strict=True):
        table.append(Chunk(first, lines, offset, len(payload), xxhash.xxh3_64_intdigest(payload)))
        offset += len(payload)
    entry = TensorEntry(
        shape=numbers.shape,
        dtype=numbers.format.name,
        codec=codec,
        width=layout.width,
        side=(len(side), xxhash.xxh3_64_intdigest(side)),
        chunks=tuple(table),
        nmse=nmse,
    )
    return Coded(entry, [side, *payloads])


def chunk_map(work: Callable[[int, int], Any], layout: Layout, jobs: int) -> Iterable[Any]:
    """work(first line, lines) for every chunk, in order, on `jobs` threads; the results come in order."""
    spans = layout.chunks()
    if jobs <= 1 or len(spans) <= 1:
        return [work(*span) for span in spans]
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(lambda span: work(*span), spans))
