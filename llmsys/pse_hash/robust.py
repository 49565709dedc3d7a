"""The four modes against adaptive queries: which coins a query gets, how many copies vote, and on what.

fresh  coins of its own for each query: structures without secrets need no more
net    L copies, right on a net of the ball at once; the query is rounded to a lattice, the median answers
dp     L copies, a private median, a budget of queries
none   the same coins for every query: fast, and an adversary finds where they are wrong

Knows no structure's insides.
"""

import math

import numpy as np

from llmsys.pse_hash.answering import Answer, Goal, dp_copies, dp_price, net_copies, private_median, relax
from llmsys.pse_hash.arrays import F64
from llmsys.pse_hash.coins import coins
from llmsys.pse_hash.faults import BudgetExhausted
from llmsys.pse_hash.kernel import Kernel
from llmsys.pse_hash.points import PointSet
from llmsys.pse_hash.sampler import Source
from llmsys.pse_hash.settings import Settings

__all__ = ["Panel"]

COPY_FAILURE = 0.1
GRID_CELLS = 15_000
VOTE = 2**62


class Panel:
    """Answers queries by one mode of robustness."""

    def __init__(self, settings: Settings, points: PointSet, source: Source, method: str, ci: str) -> None:
        self._settings, self._points, self._source, self._method, self._ci = settings, points, source, method, ci
        self._kernel = Kernel(settings.kernel, settings.scale)
        self.copies = copies_of(settings, points)

    def answer(self, query: F64, number: int) -> Answer | None:
        """The answer to query `number` (centred), or None where the exact sum is cheaper than all copies together.

        Raises BudgetExhausted where the dp mode has no answer left.
        """
        settings = self._settings
        if settings.robust == "dp" and number >= settings.max_queries:
            raise BudgetExhausted(
                f"the private budget of {settings.max_queries} answers is spent; build anew with more --max-queries"
            )
        if settings.robust in ("fresh", "none"):
            rng = coins(settings.seed, number if settings.robust == "fresh" else 0)
            return relax(self._source.at(query, 0), self._goal(settings.delta, 1), rng, self._method)
        return self._vote(query, number)

    def _goal(self, delta: float, copies: int) -> Goal:
        log_tau = math.log(self._settings.tau * max(1, self._points.count))
        return Goal(self._settings.eps, delta, log_tau, self._ci, self._points.count // copies)

    def _vote(self, query: F64, number: int) -> Answer | None:
        settings = self._settings
        place = rounded(query, lattice(settings, self._points.dim)) if settings.robust == "net" else query
        goal = self._goal(COPY_FAILURE, self.copies)
        logs, evals = [], 0
        for copy in range(self.copies):
            found = relax(self._source.at(place, copy), goal, coins(settings.seed, 0, copy + 1), self._method)
            if found is None:
                return None
            logs.append(found.value)
            evals += found.evals
        value = self._decided(logs, number)
        low, high = value + math.log1p(-min(2 * settings.eps, 0.999)), value + math.log1p(2 * settings.eps)
        return Answer(value, low, high, evals, self._method, settings.robust)

    def _decided(self, logs: list[float], number: int) -> float:
        if self._settings.robust == "net":
            return float(np.median(logs))
        price = dp_price(self._settings.max_queries, self._settings.delta)
        return private_median(logs, self._settings.eps, price, coins(self._settings.seed, number, VOTE))


def copies_of(settings: Settings, points: PointSet) -> int:
    """Independent copies behind each answer: 1 for fresh and none."""
    if settings.robust == "net":
        radius = settings.radius or farthest(points)
        return net_copies(points.dim, radius, net_spacing(settings, points.dim), settings.delta)
    if settings.robust == "dp":
        return dp_copies(settings.max_queries, settings.delta, GRID_CELLS)
    return 1


def net_spacing(settings: Settings, dim: int) -> float:
    """r = eps tau / Lambda: how far apart two points may lie whose means differ by eps tau."""
    kernel = Kernel(settings.kernel, settings.scale)
    slope = kernel.lipschitz * (math.sqrt(dim) if kernel.name == "laplacian" else 1.0)
    return settings.eps * settings.tau / slope


def lattice(settings: Settings, dim: int) -> float:
    """Spacing of the lattice whose nearest point lies within r of any query."""
    return net_spacing(settings, dim) / math.sqrt(max(dim, 1))


def rounded(query: F64, spacing: float) -> F64:
    """The nearest lattice point."""
    nearest: F64 = np.round(query / spacing) * spacing
    return nearest


def farthest(points: PointSet) -> float:
    """The largest norm of a live point about the centre: the ball's radius where none is said."""
    values = points.values[points.live_slots()]
    return float(np.sqrt(np.einsum("ij,ij->i", values, values, dtype=np.float64).max(initial=1.0)))
