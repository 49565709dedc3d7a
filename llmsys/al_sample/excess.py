"""How much worse is this fit than the one from all labels? An estimate from the chosen labels alone.

With Δ_i the change of the fit when point i is left out (exact, by the hat diagonal), excess·OPT ≈ Σ (1 − p_i)·‖Δ_i‖²_D:
the delete-one jackknife, where a point that was certain to be chosen adds nothing. OPT is the weighted mean of
r²/(1 − h). The interval leaves out 20 groups of points in turn. Squared loss only; knows no pool.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

from llmsys.al_sample.solving import Solution

__all__ = ["Excess", "estimate_excess", "left_out_changes"]

GROUPS = 20
NORMAL_95 = 1.96
SMALLEST_GAP = 1e-6

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Excess:
    """`excess` = E|y − f̂|²/OPT − 1 with a 95 % interval; `opt` is per point; `loo_r2` is 1 − LOO error/variance."""

    excess: float
    low: float
    high: float
    opt: float
    loo_r2: float


def left_out_changes(u: Floats, found: Solution) -> Floats:
    """Δ [k, r, o]: coefficients without point i minus those with it."""
    gap = np.maximum(1 - found.hat, SMALLEST_GAP)
    pull = solve_triangular(found.inner, solve_triangular(found.inner, u.T, trans="T"))  # (u*Wu)^{-1} u_i, [r, k]
    scaled = (found.effective / gap)[:, None] * found.residuals
    changes: Floats = -np.einsum("rk,ko->kro", pull, scaled)
    return changes


def estimate_excess(u: Floats, y: Floats, weight: Floats, p: Floats, found: Solution) -> Excess:
    """The estimate from k labelled points: u [k, r] orthonormal under D, y [k, o], p [k] (0 if unknown)."""
    changes = np.square(left_out_changes(u, found)).sum(axis=(1, 2)) * (1 - np.minimum(p, 1.0))
    gap = np.maximum(1 - found.hat, SMALLEST_GAP)
    losses = weight * (np.square(found.residuals).sum(axis=1) / gap)
    left_out = float((weight * np.square(found.residuals / gap[:, None]).sum(axis=1)).sum())
    centred = y - np.average(y, axis=0, weights=weight)
    spread = float((weight[:, None] * np.square(centred)).sum())
    total = float(weight.sum())
    value = _ratio(changes.sum(), losses.sum() / total, spread / total)
    groups = [np.arange(start, len(y), GROUPS) for start in range(min(GROUPS, len(y)))]
    without = np.array([_without(changes, losses, weight, rows, spread / total) for rows in groups])
    error = np.sqrt((len(groups) - 1) / len(groups) * np.square(without - without.mean()).sum())
    reach = NORMAL_95 * float(error)
    r2 = 1 - left_out / spread if spread > 0 else 1.0
    return Excess(value, max(0.0, value - reach), value + reach, float(losses.sum() / total), r2)


def _without(changes: Floats, losses: Floats, weight: Floats, rows: NDArray[np.int64], spread: float) -> float:
    share = len(changes) / max(len(changes) - len(rows), 1)
    left = max(float(weight.sum() - weight[rows].sum()), 1e-300)
    return _ratio((changes.sum() - changes[rows].sum()) * share, (losses.sum() - losses[rows].sum()) / left, spread)


def _ratio(numerator: float, opt: float, spread: float) -> float:
    """numerator/OPT; 0 where the labels are fitted exactly."""
    return 0.0 if opt <= 1e-24 * max(spread, 1e-300) or opt == 0 else float(numerator / opt)
