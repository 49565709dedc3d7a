"""What `inspect` and `verify` say of a compressed file: a line per tensor by its record, and whether it is sound.

Reads headers alone, unless checksums are asked for. Knows no codec.
"""

import math
from collections.abc import Iterator

from llmsys.compress.decoding import Archive
from llmsys.compress.encoding import TensorLine, TotalLine, line_of

__all__ = ["inspect_lines", "sum_up", "verify"]


def inspect_lines(archive: Archive) -> Iterator[TensorLine]:
    """A line for each tensor; one that is stored as it was has the codec `raw`."""
    for name in archive.names():
        container = archive.container(name)
        entry = container.entry(name)
        if entry is not None:
            yield line_of(name, entry)
            continue
        kind, shape, size = container.format(name), container.shape(name), container.stored_bytes(name)
        yield TensorLine(name, shape, kind.name, "raw", float(kind.bits), None, size)


def sum_up(lines: list[TensorLine], *, file_bytes: int) -> TotalLine:
    """The total of some lines: what files take in all, and the rate of the coded tensors with all that they need."""
    coded = [line for line in lines if line.codec != "raw"]
    coded_values = sum(math.prod(line.shape) for line in coded)
    untouched = sum(line.bytes for line in lines if line.codec == "raw")
    coded_bytes = file_bytes - untouched if coded else 0
    return TotalLine(
        total=True,
        values=sum(math.prod(line.shape) for line in lines),
        bytes=file_bytes,
        coded_values=coded_values,
        coded_bytes=coded_bytes,
        bits=8 * coded_bytes / coded_values if coded_values else 0.0,
    )


def verify(archive: Archive, *, deep: bool) -> Iterator[str]:
    """Check every checksum, and with `deep` decode everything, yielding each tensor's name once it is sound.

    Raises BadBitstream that names file, tensor and chunk.
    """
    for name in archive.names():
        archive.container(name).check(name, deep=deep)
        yield name
