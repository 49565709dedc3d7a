"""Weighted fits of the family to labels: squares by QR, Huber and ℓ_p by reweighting, logistic by scikit-learn.

Works in orthonormal coordinates u [k, r], where the sample is well conditioned; never forms normal equations. Knows no
pool and no file.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

from llmsys.al_sample.errors import RankDeficient
from llmsys.errors import BadInput, UsageFault

__all__ = ["Loss", "Solution", "parse_loss", "solve", "solve_logistic", "solve_squares"]

MAX_ROUNDS = 300
TOLERANCE = 1e-10
HUBER = 1.345
MAD = 0.6745
RIDGES = np.logspace(-8, 4, 25)

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Loss:
    """squared, huber, lp (with p) or logistic."""

    name: str
    p: float = 2.0


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """Coefficients [r, o] in orthonormal coordinates, residuals [k, o], hat diagonal [k], and the last QR's factor.

    `inner` [r, r] is R of √w·u (with the ridge's rows), `effective` [k] the weights of the last round.
    """

    coefficients: Floats
    residuals: Floats
    hat: Floats
    inner: Floats
    effective: Floats
    ridge: float = 0.0


def parse_loss(text: str) -> Loss:
    """The loss that `--loss` names. Raises UsageFault that lists the known ones.

    >>> parse_loss("lp:1.5")
    Loss(name='lp', p=1.5)
    """
    name, _, number = text.partition(":")
    if text in ("squared", "huber", "logistic"):
        return Loss(name)
    try:
        p = float(number) if name == "lp" else math.nan
    except ValueError:
        p = math.nan
    if not 1 <= p <= 4:
        raise UsageFault(f"--loss {text!r}; expected squared, huber, lp:P with P from 1 to 4, or logistic")
    return Loss("lp", p)


def solve(
    u: Floats, y: Floats, weight: Floats, loss: Loss, *, ridge: float | None = 0.0, penalty: Floats | None = None
) -> Solution:
    """Minimise Σ weight·loss(y − u·c) + ridge·‖penalty·c‖²; u [k, r], y [k, o], penalty [q, r].

    A ridge of None takes the one of least leave-one-out error (squared loss). Raises RankDeficient where the points do
    not determine c, BadInput for logistic labels other than 0 and 1.
    """
    if loss.name == "logistic":
        return solve_logistic(u, y, weight, ridge=ridge or 0.0)
    if ridge is None:
        found = [solve_squares(u, y, weight, one * weight.sum(), penalty) for one in RIDGES]
        return min(found, key=lambda one: _left_out(one, weight))
    if loss.name == "squared":
        return solve_squares(u, y, weight, ridge, penalty)
    return _reweighted(u, y, weight, loss, ridge, penalty)


def solve_squares(u: Floats, y: Floats, weight: Floats, ridge: float = 0.0, penalty: Floats | None = None) -> Solution:
    """The weighted least-squares fit by one QR of √w·u."""
    root = np.sqrt(weight)[:, None]
    rows, target = u * root, y * root
    if ridge > 0 and penalty is not None:
        rows = np.vstack([rows, math.sqrt(ridge) * penalty])
        target = np.vstack([target, np.zeros((len(penalty), y.shape[1]))])
    rank = int(np.linalg.matrix_rank(rows)) if len(rows) else 0
    if rank < u.shape[1]:
        raise RankDeficient("labels", rank, u.shape[1])
    q, inner = np.linalg.qr(rows)
    coefficients = solve_triangular(inner, q.T @ target)
    hat = np.minimum(np.square(q[: len(u)]).sum(axis=1), 1.0)
    return Solution(coefficients, y - u @ coefficients, hat, inner, weight, ridge)


def _left_out(found: Solution, weight: Floats) -> float:
    gap = np.maximum(1 - found.hat, 1e-9)[:, None]
    return float((weight[:, None] * np.square(found.residuals / gap)).sum())


def _reweighted(u: Floats, y: Floats, weight: Floats, loss: Loss, ridge: float, penalty: Floats | None) -> Solution:
    """Iteratively reweighted squares, one output at a time; for p > 2 the steps are damped by 1/(p − 1)."""
    parts = [_one_output(u, y[:, [o]], weight, loss, ridge, penalty) for o in range(y.shape[1])]
    first = parts[0]
    return Solution(
        np.hstack([one.coefficients for one in parts]),
        np.hstack([one.residuals for one in parts]),
        first.hat,
        first.inner,
        first.effective,
        ridge,
    )


def _one_output(u: Floats, y: Floats, weight: Floats, loss: Loss, ridge: float, penalty: Floats | None) -> Solution:
    found = solve_squares(u, y, weight, ridge, penalty)
    step = 1.0 if loss.p <= 2 else 1 / (loss.p - 1)
    for _ in range(MAX_ROUNDS):
        effective = weight * _factors(found.residuals[:, 0], weight, loss)
        fresh = solve_squares(u, y, effective, ridge, penalty)
        moved = found.coefficients + step * (fresh.coefficients - found.coefficients)
        change = float(np.abs(moved - found.coefficients).max())
        found = Solution(moved, y - u @ moved, fresh.hat, fresh.inner, effective, ridge)
        if change <= TOLERANCE * max(1.0, float(np.abs(moved).max())):
            break
    return found


def _factors(residuals: Floats, weight: Floats, loss: Loss) -> Floats:
    """What a round multiplies the weights by: ψ(r)/r."""
    size = np.abs(residuals)
    largest = float(size.max())
    if largest == 0.0:
        return np.ones_like(size)
    if loss.name == "lp":
        return np.maximum(size / largest, 1e-9) ** (loss.p - 2)
    order = np.argsort(size)
    half = np.searchsorted(np.cumsum(weight[order]), weight.sum() / 2)
    limit = HUBER * max(float(size[order[min(half, len(size) - 1)]]) / MAD, 1e-12 * largest)
    return np.minimum(1.0, limit / np.maximum(size, 1e-300))


def solve_logistic(u: Floats, y: Floats, weight: Floats, *, ridge: float = 0.0) -> Solution:
    """Coefficients of the log odds by scikit-learn, labels 0 and 1; without a ridge nothing is penalised."""
    from llmsys.gpu import require

    if y.shape[1] != 1 or not np.isin(y, (0.0, 1.0)).all() or len(np.unique(y)) < 2:
        raise BadInput("labels", "classes other than 0 and 1, or only one of them", "both 0 and 1 for --loss logistic")
    linear_model = require("sklearn.linear_model")
    strength = np.inf if ridge == 0 else len(y) / (ridge * float(weight.sum()))
    model = linear_model.LogisticRegression(C=strength, fit_intercept=False, max_iter=10_000, tol=1e-10)
    model.fit(u, y[:, 0], sample_weight=weight * (len(y) / weight.sum()))
    coefficients = np.asarray(model.coef_, np.float64).T
    residuals = y - 1 / (1 + np.exp(-(u @ coefficients)))
    return Solution(coefficients, residuals, np.zeros(len(y)), np.eye(u.shape[1]), weight, ridge)
