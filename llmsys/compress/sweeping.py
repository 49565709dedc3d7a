"""Rate–distortion curves: every codec at every rate on the tensors of an input, as lines and as a chart.

Knows no codec's bytes. The gap is 10·log10(NMSE) + 6.02·bits, the distance to the Gaussian bound in dB.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from llmsys.compress.coded import Numbers
from llmsys.compress.container import record_bytes
from llmsys.compress.encoding import Goal, encode_tensor
from llmsys.compress.errors import TargetUnreachable
from llmsys.compress.planning import SMALLEST_TENSOR, PlanLine

__all__ = ["SweepLine", "chart", "gap_db", "parse_list", "sweep"]


class SweepLine(msgspec.Struct, frozen=True):
    """One tensor through one codec: the rate with its record, the error, the gap in dB; why not, where it failed."""

    tensor: str
    codec: str
    bits: float | None
    nmse: float | None
    gap_db: float | None
    why: str = ""


def gap_db(nmse: float, bits: float) -> float:
    """Distance in dB to the bound of an i.i.d. Gaussian source: smaller is better, 6.02 dB is one bit.

    >>> round(gap_db(0.25, 1.0), 3)
    0.0
    """
    return 10 * math.log10(nmse) + 20 * math.log10(2) * bits


def parse_list(text: str) -> list[str]:
    """The parts of a,b,c."""
    return [part.strip() for part in text.split(",") if part.strip()]


def sweep(tensors: Sequence[Numbers], codecs: Sequence[str], rates: Sequence[float], goal: Goal) -> Iterator[SweepLine]:
    """A line per float tensor of SMALLEST_TENSOR values or more, codec and rate; an unreachable rate says why."""
    for tensor in tensors:
        if tensor.layout.values < SMALLEST_TENSOR or not tensor.format.is_float:
            continue
        for codec in codecs:
            for rate in rates:
                yield _point(tensor, codec, rate, goal)


def _point(tensor: Numbers, codec: str, rate: float, goal: Goal) -> SweepLine:
    try:
        entry = encode_tensor(tensor, PlanLine(tensor.name, codec, rate), goal, jobs=goal.jobs).entry
    except TargetUnreachable as error:
        return SweepLine(tensor.name, codec, None, None, None, str(error))
    bits = 8 * (entry.stored_bytes + record_bytes(tensor.name, entry)) / entry.values
    gap = gap_db(entry.nmse, bits) if entry.nmse else None
    return SweepLine(tensor.name, codec, bits, entry.nmse, gap)


def chart(lines: Sequence[SweepLine]) -> dict[str, Any]:
    """Curves for drawing: per tensor and codec the points (bits, NMSE in dB), in order of the rate."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for line in lines:
        if line.bits is not None and line.nmse:
            curves.setdefault(f"{line.tensor} {line.codec}", []).append((line.bits, 10 * math.log10(line.nmse)))
    return {name: sorted(points) for name, points in curves.items()}
