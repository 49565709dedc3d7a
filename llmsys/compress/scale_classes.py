"""How large the values of each line and column are, in classes: what lets one step give rows of different size
different rates.

Measures mean squares chunk by chunk; knows no codec's bytes. Non-finite values count as zero here.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmsys.compress.coded import Numbers, chunk_map
from llmsys.compress.errors import UnsupportedValues
from llmsys.compress.number_formats import F32

__all__ = ["Scales", "finite", "measure_scales"]

STRANGE_SHARE = 1e-3
"""Share of values that may be infinite or no number; they are kept exactly, beside the stream."""

I16 = NDArray[np.int16]
F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Scales:
    """Mean, variance and largest magnitude of the finite values; mean squares of lines and columns about `centre`."""

    centre: float
    variance: float
    largest: float
    line_squares: F64
    column_squares: F64 | None

    def line_class(self, per_octave: int) -> I16:
        """The class of every line: its deviation over the whole's, in 1/per_octave octaves."""
        return _classes(self.line_squares, self.mean_square, per_octave)

    def column_class(self, per_octave: int, width: int) -> I16:
        """The class of every column, all alike where columns mean nothing."""
        if self.column_squares is None:
            return np.zeros(width, np.int16)
        return _classes(self.column_squares, self.mean_square, per_octave)

    @property
    def mean_square(self) -> float:
        """Of all values about `centre`."""
        return float(self.line_squares.mean())


def finite(values: F32) -> F32:
    """The values with zero in place of what is infinite or no number."""
    good = np.isfinite(values)
    return values if good.all() else np.where(good, values, np.float32(0))


def measure_scales(numbers: Numbers, *, jobs: int = 1, centred: bool = True) -> Scales:
    """Measure a float tensor in two passes over its chunks; about zero unless `centred` and the mean is far from it.

    Raises UnsupportedValues where more than STRANGE_SHARE of the values are infinite or no number, with the first.
    """
    layout = numbers.layout

    def sums_of(first: int, lines: int) -> tuple[int, int, float, float, float]:
        start, stop = layout.span(first, lines)
        values = numbers.floats(start, stop)
        strange = np.flatnonzero(~np.isfinite(values))
        plain = finite(values).astype(np.float64)
        at = start + int(strange[0]) if len(strange) else -1
        return len(strange), at, float(plain.sum()), float((plain**2).sum()), float(np.abs(plain).max(initial=0))

    sums = list(chunk_map(sums_of, layout, jobs))
    strange = sum(one[0] for one in sums)
    if strange > STRANGE_SHARE * layout.values:
        first = next(one[1] for one in sums if one[0])
        wrong = f"{strange} of {layout.values} values are infinite or no number, the first at {first}"
        raise UnsupportedValues(numbers.name, wrong, f"at most {STRANGE_SHARE:.1%} of them, or --lossless")
    mean = sum(one[2] for one in sums) / layout.values
    variance = max(0.0, sum(one[3] for one in sums) / layout.values - mean * mean)
    centre = float(np.float32(mean)) if centred and mean * mean > 0.01 * variance else 0.0

    def squares_of(first: int, lines: int) -> tuple[F64, F64]:
        return _squares(finite(numbers.floats(*layout.span(first, lines))), centre, layout.width)

    found = list(chunk_map(squares_of, layout, jobs))
    columns = sum(one[1] for one in found) / layout.lines if layout.columns else None
    largest = max(one[4] for one in sums) + abs(centre)
    return Scales(centre, variance, largest, np.concatenate([one[0] for one in found]), columns)


def _squares(values: F32, centre: float, width: int) -> tuple[F64, F64]:
    """Mean squares of each line and sums of squares of each column of a chunk."""
    squares = (values.astype(np.float64) - centre) ** 2
    full = len(squares) // width * width
    table = squares[:full].reshape(-1, width)
    lines, columns = table.mean(1), table.sum(0)
    if full < len(squares):
        lines = np.append(lines, squares[full:].mean())
        columns[: len(squares) - full] += squares[full:]
    return lines, columns


def _classes(squares: F64, whole: float, per_octave: int) -> I16:
    with np.errstate(divide="ignore"):
        octaves = 0.5 * np.log2(squares / whole) if whole > 0 else np.zeros(len(squares))
    return np.round(per_octave * np.clip(octaves, -20, 20)).astype(np.int16)
