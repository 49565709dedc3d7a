"""`PairwiseSum`: points that change, and mean kernel values at query points, within eps, with an interval.

The one door of the library. Means are (1/n) sum_i a_i f(x_i, y). Knows no file: `files` saves and opens.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np

from llmsys.pse_hash.answering import Answer
from llmsys.pse_hash.arrays import F64, I64, Numbers
from llmsys.pse_hash.clusters import Clusters
from llmsys.pse_hash.estimates import Estimates
from llmsys.pse_hash.exact import log_sums
from llmsys.pse_hash.faults import DimensionMismatch, UnknownId
from llmsys.pse_hash.forecast import Forecast, forecast, measured_costs
from llmsys.pse_hash.hashing import HashTables
from llmsys.pse_hash.kernel import Kernel
from llmsys.pse_hash.points import PointSet, checked_vectors
from llmsys.pse_hash.robust import Panel
from llmsys.pse_hash.sampler import Source, Uniform
from llmsys.pse_hash.settings import Settings

__all__ = ["PairwiseSum"]

SAFE_GAP = 1e-4


@dataclass(slots=True)
class PairwiseSum:
    """A dynamic set of points under one kernel. Build with `build`, ask with `query`.

    `asked` numbers the queries: it names the coins of each, so a stream asked again under one seed is answered alike.
    """

    points: PointSet
    settings: Settings
    asked: int = 0
    _sources: dict[str, Source] = field(default_factory=dict)

    @classmethod
    def build(
        cls,
        x: Numbers,
        settings: Settings,
        *,
        ids: Sequence[str] | None = None,
        weights: Numbers | None = None,
        capacity: int = 0,
        measure: bool = False,
    ) -> "PairwiseSum":
        """Points [n, d] with weights >= 0 [n] (1) and ids (row numbers); `measure` times this machine for `auto`.

        Raises DimensionMismatch for NaN, negative weights or other shapes, DuplicateId for an id that comes twice.
        """
        values = checked_vectors(x, None, "points")
        heavy = checked_weights(weights, len(values))
        names = [str(row) for row in range(len(values))] if ids is None else list(ids)
        if len(names) != len(values):
            raise DimensionMismatch("ids", f"{len(names)} ids for {len(values)} points", "an id for every point")
        kernel = Kernel(settings.kernel, settings.scale)
        centre = values.mean(axis=0) if len(values) and kernel.uses_distance else np.zeros(values.shape[1])
        points = PointSet(values.shape[1], centre, max(capacity, len(values)))
        points.insert(names, values, heavy)
        made = cls(points, settings)
        if measure:
            made.settings = msgspec.structs.replace(settings, costs=measured_costs(points, made.kernel))
        return made

    @property
    def kernel(self) -> Kernel:
        """The kernel of the settings."""
        return Kernel(self.settings.kernel, self.settings.scale)

    @property
    def count(self) -> int:
        """Live points."""
        return self.points.count

    def insert(self, ids: Sequence[str], x: Numbers, weights: Numbers | None = None) -> None:
        """Add points [m, d]. Raises DuplicateId or DimensionMismatch before anything changes."""
        values = checked_vectors(x, self.points.dim, "insert")
        slots = self.points.insert(ids, values, checked_weights(weights, len(values)))
        for source in self._sources.values():
            source.insert(slots)

    def delete(self, ids: Sequence[str]) -> None:
        """Remove points. Raises UnknownId before anything changes."""
        slots = self.points.delete(ids)
        for source in self._sources.values():
            source.delete(slots)

    def replace(self, ids: Sequence[str], x: Numbers, weights: Numbers | None = None) -> None:
        """Give points new places, and new weights if said. Raises as insert and delete do, before anything changes."""
        values = checked_vectors(x, self.points.dim, "replace")
        missing = next((one for one in ids if one not in self.points.slot_of), None)
        if missing is not None:
            raise UnknownId(
                "points", f"no live point has the id {missing!r}", "the id of one that has not been deleted"
            )
        old = self.points.weights[[self.points.slot_of[one] for one in ids]]
        heavy = old if weights is None else checked_weights(weights, len(values))
        self.delete(ids)
        self.insert(ids, values, heavy)

    def query(
        self,
        y: Numbers,
        *,
        eps: float | None = None,
        delta: float | None = None,
        method: str | None = None,
        ci: str = "rigorous",
        leave_out: Sequence[str | None] | None = None,
    ) -> Estimates:
        """Estimates at queries [q, d], each without the point whose id `leave_out` names for it.

        Raises DimensionMismatch for another d, UnknownId for an id to leave out, BudgetExhausted in the dp mode.
        """
        values = checked_vectors(y, self.points.dim, "queries")
        changed = {name: value for name, value in (("eps", eps), ("delta", delta), ("method", method)) if value}
        settings = msgspec.structs.replace(self.settings, **changed)
        without = self._slots(leave_out, len(values))
        chosen = settings.method
        if chosen == "auto":
            chosen = forecast(self.points, settings, values, ci, lambda: self.source("strat")).chosen
        first, self.asked = self.asked, self.asked + len(values)
        centred = self.points.centred(values)
        if chosen == "exact" or not self.count:
            return self._estimates(self._exact(centred, without), without, settings)
        panel = Panel(settings, self.points, self.source(chosen), chosen, ci)
        answers = []
        for at, one in enumerate(centred):
            answer = self._sampled(panel, one, without[at], first + at)
            answers.append(answer or self._exact(one[None], without[at : at + 1])[0])
        return self._estimates(answers, without, settings)

    def explain(self, y: Numbers, *, ci: str = "rigorous") -> Forecast:
        """What `auto` would choose for these queries, and the cost that it foresees for each method."""
        return forecast(
            self.points, self.settings, checked_vectors(y, self.points.dim, "queries"), ci, lambda: self.source("strat")
        )

    def source(self, method: str) -> Source:
        """The structure behind a method, made when it is first needed and kept up to date from then on."""
        if method not in self._sources:
            self._sources[method] = self._made(method)
        return self._sources[method]

    def _made(self, method: str) -> Source:
        settings = self.settings
        if method == "rs":
            return Uniform(self.points, self.kernel)
        if method == "hbe":
            return HashTables(self.points, self.kernel, tables=settings.tables, seed=settings.seed)
        importance = method == "strat"
        return Clusters(self.points, self.kernel, seed=settings.seed, eps=settings.eps, importance=importance)

    def _sampled(self, panel: Panel, query: F64, without: int, number: int) -> Answer | None:
        """The panel's answer, with the weight of the point to leave out taken as 0 meanwhile."""
        if without < 0:
            return panel.answer(query, number)
        weight = self.points.weights[without]
        self.points.weights[without] = 0
        try:
            return panel.answer(query, number)
        finally:
            self.points.weights[without] = weight

    def _exact(self, centred: F64, without: I64) -> list[Answer]:
        used, kernel = self.points.used, self.kernel
        values, weights = self.points.values[:used], self.points.weights[:used]
        leaving = without >= 0
        logs = log_sums(centred, values, weights, kernel, precise=bool(leaving.any()))
        for at in np.flatnonzero(leaving):
            logs[at] = self._less_one(logs[at], centred[at], int(without[at]))
        evals = self.count
        return [Answer(one, one, one, evals, "exact", "exact") for one in logs.tolist()]

    def _less_one(self, log_sum: float, query: F64, slot: int) -> float:
        """log(e^log_sum - own); summed anew without the point where the subtraction would leave no digits."""
        own = float(self.kernel.log_row(query, self.points.values[slot : slot + 1])[0])
        own += math.log(self.points.weights[slot]) if self.points.weights[slot] > 0 else -math.inf
        if own < log_sum - SAFE_GAP:
            return log_sum + math.log1p(-math.exp(own - log_sum))
        others = self.points.live_slots()
        others = others[others != slot]
        values, weights = self.points.values[others], self.points.weights[others]
        return float(log_sums(query[None], values, weights, self.kernel, precise=True)[0])

    def _slots(self, ids: Sequence[str | None] | None, count: int) -> I64:
        """The slots to leave out, -1 for none."""
        if ids is None:
            return np.full(count, -1)
        if len(ids) != count:
            raise DimensionMismatch("leave_out", f"{len(ids)} ids for {count} queries", "one for each")
        for one in ids:
            if one is not None and one not in self.points.slot_of:
                raise UnknownId(
                    "points", f"no live point has the id {one!r}", "the id of one that has not been deleted"
                )
        return np.array([-1 if one is None else self.points.slot_of[one] for one in ids], np.int64)

    def _estimates(self, answers: list[Answer], without: I64, settings: Settings) -> Estimates:
        count = self.count - (without >= 0)
        less = np.log(np.maximum(count, 1))
        value, low, high = (
            np.array([getattr(one, name) for one in answers], np.float64) - less for name in ("value", "low", "high")
        )
        return Estimates(
            log_value=value,
            log_low=low,
            log_high=high,
            evals=np.array([one.evals for one in answers], np.int64),
            methods=tuple(one.method for one in answers),
            intervals=tuple(one.ci for one in answers),
            below_tau=value < math.log(settings.tau),
            count=count,
        )


def checked_weights(weights: Numbers | None, count: int) -> F64:
    """Weights [n] as float64, 1 by default. Raises DimensionMismatch for negative or non-finite ones."""
    if weights is None:
        return np.ones(count)
    wide = np.asarray(weights, np.float64)
    if wide.shape != (count,) or not (np.isfinite(wide) & (wide >= 0)).all():
        raise DimensionMismatch(
            "weights", f"shape {list(wide.shape)}, or a value that fits no weight", f"{count} numbers >= 0"
        )
    return wide
