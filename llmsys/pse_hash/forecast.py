"""`auto`: what each method would cost for a batch, from costs measured at build and plans of a few of its queries.

Knows no answers. The costs stand in the sketch, so a choice is a function of sketch and queries, not of the clock.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from llmsys.pse_hash.arrays import F64
from llmsys.pse_hash.clusters import Clusters
from llmsys.pse_hash.exact import log_sums
from llmsys.pse_hash.kernel import Kernel
from llmsys.pse_hash.points import PointSet
from llmsys.pse_hash.sampler import Source
from llmsys.pse_hash.settings import Costs, Settings

__all__ = ["Forecast", "forecast", "measured_costs"]

TRIALS = 8
CAUTION = 0.7
SMALL = 20_000
SAMPLE = 65_536


@dataclass(frozen=True, slots=True)
class Forecast:
    """The method chosen for a batch, why, and the seconds per query foreseen for each method."""

    chosen: str
    why: str
    seconds: dict[str, float]

    def text(self) -> str:
        """One line for a person.

        >>> Forecast("exact", "few points", {"exact": 0.002}).text()
        'auto takes exact: few points (exact 2 ms/query)'
        """
        costs = ", ".join(f"{name} {value * 1e3:.3g} ms/query" for name, value in self.seconds.items())
        return f"auto takes {self.chosen}: {self.why} ({costs})"


def measured_costs(points: PointSet, kernel: Kernel) -> Costs:
    """Time the exact sum, a sampled row and a cluster plan on this machine, about 0.1 s each."""
    rows = points.values[: min(points.used, SAMPLE)]
    if not len(rows):
        return Costs()
    weights = np.ones(len(rows))
    one, many = (np.asarray(rows[:count], np.float64) for count in (1, min(256, len(rows))))
    picked = np.random.default_rng(0).integers(len(rows), size=4096)
    return Costs(
        exact_one_s=_least_s(lambda: log_sums(one, rows, weights, kernel)) / len(rows),
        exact_batch_s=_least_s(lambda: log_sums(many, rows, weights, kernel)) / (len(rows) * len(many)),
        plan_s=Costs().plan_s,
        draw_s=_least_s(lambda: kernel.log_row(one[0], rows[picked])) / len(picked),
    )


def forecast(points: PointSet, settings: Settings, queries: F64, ci: str, strat: "Callable[[], Source]") -> Forecast:
    """Compare `exact` with `strat`. Few points, a robust mode with copies, or a goal that costs more: exact."""
    costs, n = settings.costs, points.count
    per_pair = costs.exact_one_s if len(queries) < 16 else costs.exact_batch_s
    seconds = {"exact": n * per_pair}
    if n < SMALL:
        return Forecast("exact", f"{n} points are fewer than {SMALL}: no plan pays", seconds)
    if settings.robust in ("net", "dp"):
        return Forecast("exact", f"robust {settings.robust} multiplies the cost of a sample by its copies", seconds)
    source = strat()
    assert isinstance(source, Clusters)
    goal = math.log(2 / settings.delta) * 2 / settings.eps**2
    foreseen = []
    for query in points.centred(queries[:: max(1, len(queries) // TRIALS)][:TRIALS]):
        sampler = source.at(query, 0)
        draws = sampler.forecast - sampler.evals
        if ci == "rigorous":
            share = sampler.bound / max(sampler.known + sampler.bound / 1e6, 1e-300)
            draws = max(draws, min(share * goal * settings.eps, goal * share**2))
        foreseen.append(costs.plan_s + (sampler.evals + draws) * costs.draw_s)
    seconds["strat"] = float(np.mean(foreseen))
    if seconds["strat"] < CAUTION * seconds["exact"]:
        return Forecast("strat", "summing near clusters and sampling the rest costs less", seconds)
    return Forecast("exact", "no sample reaches eps for less", seconds)


def _least_s(work: Callable[[], object]) -> float:
    """Seconds of the fastest of three runs after one that warms up."""
    work()
    times = []
    for _ in range(3):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)
