"""From a sampler to one answer: draws in rounds that double until the interval is within eps or exact is cheaper.

`private_median` gives the dp mode's answer from those of its copies. Knows no structure and no file.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmsys.pse_hash.arrays import F64
from llmsys.pse_hash.intervals import interval_of
from llmsys.pse_hash.sampler import Sampler

__all__ = ["Answer", "Goal", "dp_copies", "net_copies", "private_median", "relax"]

FIRST_ROUND = 256
GRID_RANGE = 700.0


@dataclass(frozen=True, slots=True)
class Goal:
    """What an answer must meet: relative error eps but with probability delta; a sum below e^log_tau may stop."""

    eps: float
    delta: float
    log_tau: float
    ci: str
    max_evals: int


@dataclass(frozen=True, slots=True)
class Answer:
    """Natural logarithms of a sum and of the ends of its interval."""

    value: float
    low: float
    high: float
    evals: int
    method: str
    ci: str


def relax(sampler: Sampler, goal: Goal, rng: np.random.Generator, method: str) -> Answer | None:
    """Draw until the interval is within eps of its middle or lies below tau; None where `max_evals` comes first."""
    interval = interval_of(goal.ci, goal.delta, sampler.bound)
    drawn, size = 0, FIRST_ROUND
    while sampler.bound > 0:
        if sampler.evals + size > goal.max_evals:
            return None
        if sampler.available is not None:
            size = min(size, sampler.available - drawn)
            if size <= 0:
                return None
        interval.add(sampler.draw(size, rng))
        drawn += size
        size = drawn
        if _hopeless(sampler, goal, interval.limits()[2]):
            return None
        _, low, high = interval.limits()
        if high - low <= 2 * goal.eps * (sampler.known + low):
            break
        if _log(sampler.known + high) + sampler.shift < goal.log_tau:
            break
    mean, low, high = interval.limits()
    ends = (_log(sampler.known + part) + sampler.shift for part in (mean, low, high))
    value, bottom, top = ends
    return Answer(value, bottom, top, sampler.evals, method, goal.ci)


def _hopeless(sampler: Sampler, goal: Goal, high: float) -> bool:
    """Whether even draws without variance leave a rigorous interval too wide: its width is bound log(2/delta) / m."""
    if goal.ci != "rigorous":
        return False
    least = sampler.bound * math.log(2 / goal.delta) / max(goal.max_evals, 1)
    return least > goal.eps * (sampler.known + high)


def net_copies(dim: int, radius: float, spacing: float, delta: float) -> int:
    """Copies whose median is right on an r-net of the ball, each copy being right with probability 0.9.

    L = (d ln(1 + 2R/r) + ln(1/delta)) / 0.51, with 0.51 = KL(1/2 || 0.1); odd.
    """
    return math.ceil((dim * math.log1p(2 * radius / spacing) + math.log(1 / delta)) / 0.51) | 1


def dp_copies(queries: int, delta: float, grid: int) -> int:
    """Copies that answer `queries` adaptive queries through private medians (advanced composition); odd."""
    price = dp_price(queries, delta)
    return math.ceil(8 / price * math.log(grid * queries / delta)) | 1


def dp_price(queries: int, delta: float) -> float:
    """The privacy loss that one of `queries` answers may cost, so that all together cost at most 1."""
    return 1 / math.sqrt(8 * queries * math.log(2 / delta))


def private_median(logs: Sequence[float], eps: float, price: float, rng: np.random.Generator) -> float:
    """A median of log values by the exponential mechanism over a grid of ratio 1 + eps/2.

    The score of a grid point is minus its distance in rank from the middle, which one copy changes by at most 1.
    """
    step = math.log1p(eps / 2)
    cells = np.clip(np.floor(np.asarray(logs) / step), -GRID_RANGE / step, GRID_RANGE / step).astype(np.int64)
    grid: np.ndarray[tuple[int], np.dtype[np.int64]] = np.arange(-int(GRID_RANGE / step), int(GRID_RANGE / step) + 1)
    order = np.sort(cells)
    below, upto = np.searchsorted(order, grid, "left"), np.searchsorted(order, grid, "right")
    middle = len(order) / 2
    off = np.maximum(np.maximum(below - middle, middle - upto), 0)
    score: F64 = -off * price / 2
    odds = np.exp(score - score.max())
    chosen = int(grid[rng.choice(len(grid), p=odds / odds.sum())])
    return (chosen + 0.5) * step


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf
