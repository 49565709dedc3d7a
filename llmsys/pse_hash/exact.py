"""log sum_i a_i f(x_i, y) over all points: tiles of GEMM whose exponentials are summed while they lie in cache.

Gaussian and dot go through float32 where the rounding of |x|^2 + |y|^2 - 2<x,y> cannot move a value by more than
ROUNDING; all else goes through float64. Knows neither estimates nor intervals.
"""

import math

import numpy as np

from llmsys.pse_hash.arrays import F32, F64, Numbers
from llmsys.pse_hash.compiled import DEAD, fold
from llmsys.pse_hash.kernel import Kernel

__all__ = ["log_sums"]

QUERY_TILE, POINT_TILE = 128, 1024
WIDE_TILE = 4096
ROUNDING = 5e-6
LOG2_E = 1 / math.log(2)


def log_sums(queries: F64, points: Numbers, weights: F64, kernel: Kernel, *, precise: bool = False) -> F64:
    """log sum_i weights[i] f(points[i], y) for every query: queries [q, d], points [n, d], result [q].

    -inf for an empty or weightless set. Relative error of the sum at most 1e-5,
    `precise` about 1e-12.
    """
    result = np.full(len(queries), -np.inf)
    if not len(points) or not len(queries):
        return result
    narrow = _fits_float32(queries, points, kernel) & (not precise)
    if narrow.any():
        result[narrow] = _narrow(queries[narrow], np.asarray(points, np.float32), weights, kernel)
    if not narrow.all():
        result[~narrow] = _wide(queries[~narrow], points, weights, kernel)
    return result


def _fits_float32(queries: F64, points: Numbers, kernel: Kernel) -> "np.ndarray[tuple[int], np.dtype[np.bool_]]":
    """For which queries float32 is good: 2^-24 (|x|^2 + |y|^2) c, c the exponent's factor, stays under ROUNDING."""
    if kernel.name not in ("gaussian", "dot"):
        return np.zeros(len(queries), np.bool_)
    factor = 0.5 / kernel.scale**2 if kernel.name == "gaussian" else 0.5 * kernel.scale
    farthest = float(np.einsum("ij,ij->i", points, points).max())
    size = np.einsum("ij,ij->i", queries, queries) + farthest
    fits: np.ndarray[tuple[int], np.dtype[np.bool_]] = size * factor * 2.0**-24 <= ROUNDING
    return fits


def _narrow(queries: F64, points: F32, weights: F64, kernel: Kernel) -> F64:
    factor = LOG2_E / kernel.scale**2 if kernel.name == "gaussian" else LOG2_E * kernel.scale
    y = np.ascontiguousarray(queries * factor, np.float32)
    top, total = np.full(len(y), float(DEAD)), np.zeros(len(y))
    tile = np.empty((QUERY_TILE, POINT_TILE), np.float32)
    power = np.empty(POINT_TILE, np.float32)
    for start in range(0, len(points), POINT_TILE):
        x = points[start : start + POINT_TILE]
        bias = _bias(x, weights[start : start + POINT_TILE], factor, kernel)
        for first in range(0, len(y), QUERY_TILE):
            part = slice(first, min(first + QUERY_TILE, len(y)))
            rows = part.stop - first
            room = tile[:rows] if len(x) == POINT_TILE else np.empty((rows, len(x)), np.float32)
            np.matmul(y[part], x.T, out=room)
            fold(room, bias, top[part], total[part], power, power.view(np.int32))
    with np.errstate(divide="ignore"):
        logs = np.log(total) + top / LOG2_E
    if kernel.name == "gaussian":
        logs -= np.einsum("ij,ij->i", queries, queries) * (0.5 / kernel.scale**2)
    return np.where(total > 0, logs, -np.inf)


def _bias(x: F32, weights: F64, factor: float, kernel: Kernel) -> F32:
    """What each point adds to the exponent, base 2: its weight, and its norm for gaussian."""
    with np.errstate(divide="ignore"):
        bias = np.log2(weights)
    if kernel.name == "gaussian":
        bias = bias - 0.5 * factor * np.einsum("ij,ij->i", x, x, dtype=np.float64)
    return np.maximum(bias, DEAD).astype(np.float32)


def _wide(queries: F64, points: Numbers, weights: F64, kernel: Kernel) -> F64:
    top, total = np.full(len(queries), -np.inf), np.zeros(len(queries))
    with np.errstate(divide="ignore"):
        log_weights = np.log(weights)
    for start in range(0, len(points), WIDE_TILE):
        part = slice(start, start + WIDE_TILE)
        for first in range(0, len(queries), QUERY_TILE):
            rows = slice(first, first + QUERY_TILE)
            logs = kernel.log_pairs(queries[rows], points[part]) + log_weights[part]
            best = np.maximum(top[rows], logs.max(axis=1))
            shift = np.where(np.isfinite(best), best, 0.0)
            total[rows] = total[rows] * np.exp(top[rows] - shift) + np.exp(logs - shift[:, None]).sum(axis=1)
            top[rows] = best
    with np.errstate(divide="ignore"):
        return np.where(total > 0, np.log(total) + np.where(np.isfinite(top), top, 0.0), -np.inf)
