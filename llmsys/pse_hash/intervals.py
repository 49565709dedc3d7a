"""Intervals for the mean of draws in [0, bound].

`Rigorous` is the predictable plug-in empirical-Bernstein confidence sequence (Waudby-Smith & Ramdas, 2024, eq. 13-15):
valid at all sample sizes at once, so stopping early costs nothing. `Clt` is Student's t over groups of draws on the
log scale: cheap, and in the tail of a kernel sum it covers less than it says (`check` measures how much).
"""

import math
from typing import Protocol

import numpy as np

from llmsys.pse_hash.arrays import F64

__all__ = ["Clt", "Interval", "Rigorous", "interval_of"]

LARGEST_BET = 0.75
GROUPS = 16


class Interval(Protocol):
    """Takes draws and says where their mean lies."""

    def add(self, draws: F64) -> None:
        """Take draws [m], in their order."""

    def limits(self) -> tuple[float, float, float]:
        """(mean, low, high) after all draws so far."""


def interval_of(kind: str, delta: float, bound: float) -> Interval:
    """A fresh interval: kind rigorous or clt, error rate `delta`, draws in [0, bound]."""
    return Rigorous(delta, bound) if kind == "rigorous" else Clt(delta)


class Rigorous:
    """The empirical-Bernstein confidence sequence; `limits` holds at every time with probability 1 - delta."""

    def __init__(self, delta: float, bound: float) -> None:
        self._price = math.log(2 / delta)
        self._bound = bound
        self._count, self._sum, self._squares = 0, 0.5, 0.25
        self._bets = self._won = self._paid = 0.0
        self._low, self._high = 0.0, 1.0

    def add(self, draws: F64) -> None:
        """Take draws in their order; each is bet on with what the ones before it say."""
        if self._bound <= 0 or not len(draws):
            return
        x = draws / self._bound
        count = self._count + np.arange(len(x))  # draws before this one
        before = np.concatenate([[self._sum], self._sum + np.cumsum(x)])
        means = before / (1 + np.append(count, count[-1] + 1))
        spread = np.concatenate([[self._squares], self._squares + np.cumsum(np.square(x - means[1:]))])
        variance = spread[:-1] / (1 + count)
        bets = np.minimum(np.sqrt(2 * self._price / (variance * (count + 1) * np.log(count + 2))), LARGEST_BET)
        self._bets += float(bets.sum())
        self._won += float((bets * x).sum())
        self._paid += float((np.square(x - means[:-1]) * (-np.log1p(-bets) - bets)).sum())
        self._count, self._sum, self._squares = self._count + len(x), float(before[-1]), float(spread[-1])
        centre, half = self._won / self._bets, (self._price + self._paid) / self._bets
        self._low, self._high = max(self._low, centre - half), min(self._high, centre + half)

    def limits(self) -> tuple[float, float, float]:
        """The middle of the interval as the mean, and its ends: the best of those seen so far."""
        if self._bound <= 0:
            return 0.0, 0.0, 0.0
        low, high = self._low * self._bound, max(self._high, self._low) * self._bound
        mean = (self._sum - 0.5) / max(self._count, 1) * self._bound
        return min(max(mean, low), high), low, high


class Clt:
    """Student's t for the logarithm of the mean, from GROUPS groups of draws."""

    def __init__(self, delta: float) -> None:
        self._delta = delta
        self._sums, self._counts = np.zeros(GROUPS), np.zeros(GROUPS, np.int64)
        self._taken = 0

    def add(self, draws: F64) -> None:
        """Deal draws to the groups in turn."""
        groups = (self._taken + np.arange(len(draws))) % GROUPS
        self._sums += np.bincount(groups, draws, GROUPS)
        self._counts += np.bincount(groups, minlength=GROUPS)
        self._taken += len(draws)

    def limits(self) -> tuple[float, float, float]:
        """(mean, low, high); high is infinite while there are fewer draws than groups or no draw is above 0."""
        mean = float(self._sums.sum()) / max(self._taken, 1)
        if self._taken < 2 * GROUPS or mean <= 0:
            return mean, 0.0, math.inf
        from scipy.stats import t

        relative = float(np.std(self._sums / self._counts, ddof=1)) / mean / math.sqrt(GROUPS)
        width = float(t.ppf(1 - self._delta / 2, GROUPS - 1)) * relative
        return mean, mean * math.exp(-width), mean * math.exp(min(width, 700.0))
