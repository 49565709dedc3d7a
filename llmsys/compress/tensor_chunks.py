"""One chunk of `tq` on its way into bytes: symbols counted, points of reconstruction measured, the payload written.

Knows one chunk at a time; `tensor_encoder` drives it and `tensor_codec` reads what it writes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmsys.compress.bit_codes import code_bits, write_numbers, zigzag
from llmsys.compress.frequency_tables import MIDDLE
from llmsys.compress.number_formats import F32
from llmsys.compress.rans import encode
from llmsys.compress.tensor_codec import CHUNK_HEAD, POINTS, STRANGE, Shared
from llmsys.compress.trellis import ESCAPE, Machine, Quantised

__all__ = ["Pass", "chunk_payload", "count_symbols", "point_gaps", "rounded_points"]

I16 = NDArray[np.int16]
I64 = NDArray[np.int64]
F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Pass:
    """One quantisation of all chunks: counts [contexts, 33], gaps and hits [POINTS] of the points, and each chunk's
    symbols where they were kept."""

    counts: I64
    gaps: F64
    hits: I64
    chunks: list[Quantised] | None


def count_symbols(found: Quantised, contexts: int) -> tuple[I64, int]:
    """How often each context saw each magnitude [contexts, 33], and the bits of all escapes."""
    sizes = np.abs(found.symbols.astype(np.int64))
    magnitudes = _coded_magnitudes(sizes)
    counts = np.bincount(found.contexts.astype(np.int64) * 33 + magnitudes, minlength=33 * contexts)
    return counts.reshape(contexts, 33), code_bits(_rests(sizes), 0)


def point_gaps(found: Quantised, scaled: F32, machine: Machine) -> tuple[F64, I64]:
    """Per level 1 … POINTS: how far the values lie above it in all, and how many there are."""
    sizes = np.abs(found.symbols.astype(np.int64))
    second = found.contexts.astype(np.int64) % machine.count
    levels = machine.count * sizes - np.where(sizes > 0, second, 0)
    near = (levels > 0) & (levels <= POINTS)
    places = levels[near] - 1
    gaps = np.abs(scaled[near]).astype(np.float64) - levels[near]
    hits = np.bincount(places, minlength=POINTS).astype(np.int64)
    return np.bincount(places, gaps, POINTS).astype(np.float64), hits


def rounded_points(done: Pass) -> NDArray[np.int8]:
    """The mean gap of each level in 256ths of a step."""
    mean = done.gaps / np.maximum(done.hits, 1)
    return np.clip(np.round(256 * mean), -127, 127).astype(np.int8)


def chunk_payload(values: F32, found: Quantised, shared: Shared, line_class: I16) -> bytes:
    """A chunk's bytes: a head, values that are infinite or no number, classes of its lines, escapes, words."""
    sizes = np.abs(found.symbols.astype(np.int64))
    symbols = np.sign(found.symbols) * _coded_magnitudes(sizes) + MIDDLE
    grid = shared.grid(line_class, len(values))
    words = encode(symbols.astype(np.uint8), found.contexts, grid, shared.frequencies)
    places = np.flatnonzero(~np.isfinite(values))
    strange = np.zeros(len(places), STRANGE)
    strange["at"], strange["value"] = places, values[places]
    lines = write_numbers(zigzag(line_class.astype(np.int64)), 0)
    escapes = write_numbers(_rests(sizes), 0)
    head = CHUNK_HEAD.pack(len(places), len(lines), len(escapes))
    return head + strange.tobytes() + lines + escapes + words.tobytes()


def _coded_magnitudes(sizes: I64) -> I64:
    """Magnitudes as symbols: those from ESCAPE on keep only their parity."""
    return np.where(sizes < ESCAPE, sizes, ESCAPE + ((sizes - ESCAPE) & 1))


def _rests(sizes: I64) -> I64:
    """What an escape leaves out of each magnitude from ESCAPE on, in order."""
    return (sizes[sizes >= ESCAPE] - ESCAPE) >> 1
