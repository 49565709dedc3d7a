"""Which resolutions a multi-resolution estimator uses, by the second moment that can be computed beforehand.

For one family E[Z^2] <= sum_i sum_j a_i^2 (f_i/p_i)^2 min(p_i, p_j); for several, weighted by p^2, the root of E[Z^2]
is at most the sum of their roots. Knows no tables.
"""

from collections.abc import Sequence

import numpy as np

from llmsys.pse_hash.arrays import F64
from llmsys.pse_hash.families import Family

__all__ = ["chosen", "log_shares", "second_moment"]

MOST = 3
GAIN = 0.95


def log_shares(log_p: F64) -> F64:
    """log of p_t / sum_s p_s^2 from log p [families, m]: what a f is multiplied by, per member of a bucket."""
    shares: F64 = log_p - np.logaddexp.reduce(2 * log_p, axis=0)
    return shares


def second_moment(values: F64, log_p: F64) -> float:
    """The bound of E[Z^2], Z estimating sum(values), from values a f [m] and log p [families, m]."""
    factors = np.exp(log_shares(log_p))
    return float(sum(np.sqrt(_one(values * factor, np.exp(p))) for factor, p in zip(factors, log_p, strict=True))) ** 2


def chosen(families: Sequence[Family], queries: F64, points: F64, log_f: F64) -> tuple[Family, ...]:
    """Up to MOST families, taken greedily while the mean relative bound falls by 5 %: log_f [q, n] of the pairs."""
    log_p = np.array([[family.log_probability(y, points) for y in queries] for family in families])
    values = np.exp(log_f - log_f.max(axis=1, keepdims=True))
    picked: list[int] = []
    best = np.inf
    while len(picked) < min(MOST, len(families)):
        scores = {one: _score(values, log_p[[*picked, one]]) for one in range(len(families)) if one not in picked}
        leader = min(scores, key=lambda one: scores[one])
        if scores[leader] >= GAIN * best:
            break
        best = scores[leader]
        picked.append(leader)
    return tuple(families[one] for one in picked)


def _score(values: F64, log_p: F64) -> float:
    """Median over queries of the bound relative to the square of the sum."""
    relative = [second_moment(row, log_p[:, at]) / max(row.sum(), 1e-300) ** 2 for at, row in enumerate(values)]
    return float(np.median(relative))


def _one(shares: F64, p: F64) -> float:
    """sum_i shares_i^2 sum_j min(p_i, p_j), by sorting p."""
    order = np.argsort(p)
    ordered = p[order]
    below = np.cumsum(ordered)
    least = below + ordered * (len(p) - 1 - np.arange(len(p)))
    return float((np.square(shares[order]) * least).sum())
