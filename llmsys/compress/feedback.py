"""The calibrated encoder (WaterSIC, arXiv 2603.04956): steps by H and g, each error taken up by the columns after it.

Least Σ tr(diag(g) E H Eᵀ) at a rate: with H + δI = L Lᵀ the columns are rounded from the last to the first, column j
towards w_j + Σ_{i>j} (L_ij / L_jj) e_i in steps of c / (L_jj √g_row). One c for a whole model is the best split of
bits between its tensors. Knows statistics and levels; the bytes are `weighted`'s.
"""

import math
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from llmsys.compress.coded import Coded, Numbers, Target, in_memory, pack
from llmsys.compress.errors import TargetUnreachable
from llmsys.compress.number_formats import from_words, to_words
from llmsys.compress.rate_search import search_below
from llmsys.compress.sensitivity import Sensitivity
from llmsys.compress.tensor_encoder import encode_levels, sampled_rate
from llmsys.compress.weighted import LARGEST_CODE, restored, weights_of, write_weights

__all__ = ["Weighting", "encode_weighted", "takes", "weighted_rates", "weighting_of"]

DAMPING = 0.01
LEAST_SHARE = 1e-4
"""The least g of a row, over the mean: a row that the calibration never saw move must not get an endless step."""
BLOCK = 64
LARGEST_LEVEL = 2.0**20

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Weighting:
    """L [n, n] of a matrix's inputs, and the codes of its rows' and columns' weights."""

    lower: F64
    rows: I64
    columns: I64

    @property
    def steps(self) -> F64:
        """What a step of 1 is divided by, [rows, columns]."""
        return weights_of(self.rows)[:, None] * weights_of(self.columns)[None, :]


def takes(numbers: Numbers) -> bool:
    """Whether a tensor is a matrix whose lines are its rows, all finite."""
    layout = numbers.layout
    plain = len(numbers.shape) == 2 and layout.columns
    return plain and all(np.isfinite(numbers.floats(*layout.span(*chunk))).all() for chunk in layout.chunks())


def weighting_of(found: Sensitivity) -> Weighting:
    """Weights from moments; `1 % of the mean diagonal` is added to H."""
    moments = found.inputs.astype(np.float64)
    moments = (moments + moments.T) / 2
    mean = float(np.trace(moments)) / len(moments)
    damped = moments + (DAMPING * mean if mean > 0 else 1.0) * np.eye(len(moments))
    lower: F64 = np.asarray(np.linalg.cholesky(damped), np.float64)
    squares = found.outputs.astype(np.float64)
    floor = LEAST_SHARE * float(squares.mean())
    return Weighting(lower, _codes(np.sqrt(np.maximum(squares, floor if floor > 0 else 1.0))), _codes(lower.diagonal()))


def encode_weighted(numbers: Numbers, target: Target, found: Sensitivity, *, jobs: int = 1) -> Coded:
    """Code a matrix that `takes` accepts to a target of bytes. Raises TargetUnreachable with the range of bits."""
    if target.stored_bytes is None:
        raise ValueError("a target without bytes; the calibrated encoder has no other")
    rows, columns = numbers.shape
    values = numbers.floats(0, rows * columns).reshape(rows, columns).astype(np.float64)
    weighting = weighting_of(found)
    wanted, slack = 8 * target.stored_bytes / values.size, 8 * target.slack_bytes / values.size
    spread = float(np.sqrt(np.mean((values * weighting.steps) ** 2)))
    best: list[Coded] = []

    def measure(x: float) -> float:
        coded = _written(numbers, values, weighting, 2.0**x, jobs)
        size = coded.entry.stored_bytes
        if size <= target.stored_bytes and (not best or size > best[0].entry.stored_bytes):  # type: ignore[operator]
            best[:] = [coded]
        return 8 * size / values.size

    found_rate = search_below(measure, wanted, math.log2(spread) + 2.0 - wanted, slack=slack, tries=8)
    if not best:
        message = f"{numbers.name}: {wanted:.3f} bits per value cannot be had; reachable: {found_rate.y:.3f} to 8"
        raise TargetUnreachable(message, reachable=(found_rate.y, 8.0))
    return best[0]


def weighted_rates(numbers: Numbers, found: Sensitivity, relative: list[float]) -> tuple[float, list[float]]:
    """log2 of a matrix's weighted deviation, and its bits at steps of so many deviations: what a plan is made of."""
    rows, columns = numbers.shape
    scaled = numbers.floats(0, rows * columns).reshape(rows, columns) * weighting_of(found).steps
    spread = float(np.sqrt(np.mean(scaled**2)))
    return math.log2(spread), sampled_rate(in_memory(scaled.astype(np.float32)), relative, trellis=0)


def quantised(values: F64, weighting: Weighting, step: float) -> F64:
    """Levels [rows, n] of values [rows, n] at a step, with feedback from the columns that were rounded before."""
    steps, lower = weighting.steps / step, weighting.lower
    levels, errors = np.zeros_like(values), np.zeros_like(values)
    for stop in range(values.shape[1], 0, -BLOCK):
        first = max(0, stop - BLOCK)
        later = errors[:, stop:] @ lower[stop:, first:stop]
        for j in range(stop - 1, first - 1, -1):
            owed = later[:, j - first] + errors[:, j + 1 : stop] @ lower[j + 1 : stop, j]
            aim = (values[:, j] + owed / lower[j, j]) * steps[:, j]
            levels[:, j] = np.clip(np.round(aim), -LARGEST_LEVEL, LARGEST_LEVEL)
            errors[:, j] = values[:, j] - levels[:, j] / steps[:, j]
    return levels


def _written(numbers: Numbers, values: F64, weighting: Weighting, step: float, jobs: int) -> Coded:
    levels = quantised(values, weighting, step).astype(np.float32)
    inner = encode_levels(in_memory(levels, numbers.name), jobs=jobs)
    side = write_weights(step, weighting.rows, weighting.columns, inner.blobs[0])
    coded = pack(numbers, "wtq", side, inner.blobs[1:])
    decoded = restored(levels, step, weights_of(weighting.rows), weights_of(weighting.columns))
    gap = values - from_words(to_words(decoded.reshape(-1), numbers.format), numbers.format).reshape(values.shape)
    nmse = float(np.mean(gap**2)) / max(float(values.var()), 1e-300)
    return Coded(msgspec.structs.replace(coded.entry, nmse=nmse), coded.blobs)


def _codes(weights: F64) -> I64:
    return np.clip(np.round(4 * np.log2(weights)), -LARGEST_CODE, LARGEST_CODE).astype(np.int64)
