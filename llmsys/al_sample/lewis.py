"""ℓ_p Lewis weights of a pool (Lewis 1978; Cohen & Peng, STOC 2015): leverage for losses that are not squares.

w_i = (a_i*(A*W^{1−2/p}A)^{-1}a_i)^{p/2}, the same as the leverage of the rows a_i·w_i^{1/2−1/p}; the iteration
contracts for p < 4, and faster where steps in log w are shortened for p > 2. Every iteration is two passes over the
pool. Knows no selection rule.
"""

import numpy as np
from numpy.typing import NDArray

from llmsys.al_sample.design import Design
from llmsys.al_sample.frames import frame_from_factor, triangular_factor
from llmsys.errors import UsageFault

__all__ = ["lewis_residual", "lewis_weights"]

MAX_ROUNDS = 200
TOLERANCE = 1e-9

Floats = NDArray[np.float64]


def lewis_weights(design: Design, p: float) -> Floats:
    """Weights [n] in [0, 1] with sum rank(A), to a relative change below 1e-9.

    A point with n·D other than 1 counts as that many rows. Raises UsageFault for p outside [1, 4).
    """
    if not 1 <= p < 4:
        raise UsageFault(f"--method lewis:{p:g}; expected p of at least 1 and below 4")
    weights = np.ones(len(design))
    step = 1.0 if p <= 2 else 1 / (0.5 + p / 4)
    for _ in range(MAX_ROUNDS):
        fresh = weights ** (1 - step) * _applied(design, p, weights) ** step
        change = float(np.max(np.abs(fresh - weights) / np.maximum(fresh, 1e-300), initial=0.0))
        weights = fresh
        if change < TOLERANCE:
            break
    return weights


def lewis_residual(design: Design, p: float, weights: Floats) -> float:
    """The largest |w − F(w)| of the fixed-point equation."""
    return float(np.max(np.abs(_applied(design, p, weights) - weights), initial=0.0))


def _applied(design: Design, p: float, weights: Floats) -> Floats:
    """One application of w ← (a*(A*W^{1−2/p}A)^{-1}a)^{p/2}; rows that are 0 keep weight 0."""
    power = 0.5 - 1 / p
    with np.errstate(divide="ignore"):
        rows = np.where(weights > 0, weights**power, 0.0)
    density = design.density(np.arange(len(design))) ** (1 / p)
    scaled = ((s, block * (rows * density)[s : s + len(block), None]) for s, block in design.blocks())
    frame = frame_from_factor(triangular_factor(block for _, block in scaled), len(design), design.pool.name)
    fresh = np.empty(len(design))
    for start, block in design.blocks():
        u = frame.orthonormal(block * density[start : start + len(block), None])
        fresh[start : start + len(u)] = (np.einsum("ij,ij->i", u, u) / len(design)) ** (p / 2)
    return fresh
