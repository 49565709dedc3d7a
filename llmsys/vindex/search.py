"""Queries of many tenants in one call: who may see what, which search serves it, and ids and distances of the result.

`ask` takes what a search reads, under the index's guard; `Asked.hits` needs no guard. Knows no files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmsys.errors import UsageFault
from llmsys.vindex.arrays import F32, I32, I64
from llmsys.vindex.device_scan import DeviceScan
from llmsys.vindex.index_files import PlanRecord
from llmsys.vindex.metric import distances, prepared
from llmsys.vindex.scan import Effort, Found, Task, answer
from llmsys.vindex.search_space import SearchSpace
from llmsys.vindex.slot_store import Id
from llmsys.vindex.state import State
from llmsys.vindex.tenant_list import Run
from llmsys.vindex.view_cache import ViewCache
from llmsys.vindex.where import evaluate, parse

__all__ = ["MAX_K", "Asked", "Hits", "ask", "planned", "visible"]

MAX_K = 10_000


@dataclass(frozen=True, slots=True, eq=False)
class Hits:
    """Answers of m queries, nearest first.

    ids [m, k]: int64 with -1 where there are no more, or str with None; distances [m, k] float32, NaN there: squared
    distances under l2, similarities under ip and cosine; scanned [m]: vectors looked at; seq: the number of the last
    operation that they know.
    """

    ids: NDArray[Any]
    distances: F32
    scanned: I64
    seq: int

    def row(self, query: int) -> tuple[list[Id], list[float]]:
        """Ids and distances of one query, without padding."""
        count = int((~np.isnan(self.distances[query])).sum())
        return self.ids[query, :count].tolist(), self.distances[query, :count].tolist()

    def within(self, limit: float, metric: str) -> "Hits":
        """Only what is no farther than a distance under l2, no less similar than a similarity otherwise."""
        near = self.distances <= limit if metric == "l2" else self.distances >= limit
        ids, distances = self.ids.copy(), self.distances.copy()
        ids[~near], distances[~near] = None if ids.dtype == object else -1, np.nan
        return Hits(ids, distances, self.scanned, self.seq)


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """A search that holds all that it reads: what the index is later changed to does not touch it."""

    space: SearchSpace
    task: Task
    rows: I64
    count: int
    k: int
    ids: I64 | list[str]
    seq: int

    def hits(self, threads: int = 1, device: DeviceScan | None = None) -> Hits:
        """Run it, on so many threads or on a GPU."""
        if not len(self.rows):
            found = Found.nothing(self.count, self.k)
        elif device is not None:
            found = device.answer(self.space, self.task, self.k)
        else:
            found = answer(self.space, self.task, self.k, threads=threads)
        if len(found.slots) < self.count:
            found = _spread(found, self.rows, self.count)
        return _hits(found, self.ids, self.space.metric, self.seq)


def ask(
    state: State,
    queries: NDArray[Any],
    tenants: str | Sequence[str | None] | None,
    *,
    k: int,
    where: str | None,
    effort: Effort | None,
    plans: Sequence[PlanRecord],
    views: ViewCache,
) -> Asked:
    """A search for the k nearest vectors that each query's tenant may see and `where` holds for; None sees all.

    Without an effort, `plans` say one by the size of what is visible; where they say none, all of it is compared.
    Raises BadInput for queries that do not fit, UsageFault for k, `where` and a wrong number of tenants.
    """
    store = state.store
    if not 1 <= k <= MAX_K:
        raise UsageFault(f"k is {k}; expected 1 to {MAX_K}")
    rows = prepared(np.atleast_2d(queries), store.metric, "queries", store.vectors.shape[1])
    names = _names(tenants, len(rows))
    runs: list[Run] = []
    number: dict[str | None, int] = {}
    for name in dict.fromkeys(names):
        seen = visible(state, name, where, views)
        number[name] = len(runs) if seen is not None else -1
        runs += [seen] if seen is not None else []
    efforts = [planned(plans, len(one)) if effort is None else effort for one in runs]
    whose = np.array([number[name] for name in names], np.int64)
    asked = np.flatnonzero(whose >= 0)
    task = Task(np.ascontiguousarray(rows[asked]), runs, efforts, whose[asked])
    return Asked(state.space(), task, asked, len(rows), k, store.ids, state.seq)


def visible(state: State, tenant: str | None, where: str | None, views: ViewCache) -> Run | None:
    """What a tenant sees of the vectors that `where` holds for; None if that is nothing. Tenant None sees all."""
    if where is None and tenant is not None:
        return state.run(tenant)
    key = (tenant, where, state.seq)
    if key not in views:
        everything = state.store.live_slots() if tenant is None else np.sort(_members(state, tenant))
        slots = everything if where is None else evaluate(parse(where), lambda name: _members(state, name), everything)
        views.keep(key, state.view(slots) if len(slots) else None)
    return views.get(key)


def planned(plans: Sequence[PlanRecord], size: int) -> Effort | None:
    """The effort of the plan for the largest size class that `size` reaches; None asks for the exact scan."""
    fitting = [plan for plan in plans if plan.from_size <= size]
    if not fitting:
        return None
    plan = max(fitting, key=lambda one: one.from_size)
    return Effort(plan.width, plan.patience) if plan.width else None


def _members(state: State, name: str) -> I32:
    found = state.tenant(name)
    return found.members() if found is not None else np.zeros(0, np.int32)


def _names(tenants: str | Sequence[str | None] | None, queries: int) -> Sequence[str | None]:
    """The tenant of each query."""
    if tenants is None or isinstance(tenants, str):
        return [tenants] * queries
    if len(tenants) != queries:
        raise UsageFault(f"{len(tenants)} tenants for {queries} queries; expected one for each")
    return tenants


def _spread(part: Found, rows: I64, count: int) -> Found:
    """Answers to some queries as those of all `count`: the others have found nothing."""
    found = Found.nothing(count, part.slots.shape[1])
    found.slots[rows], found.scores[rows], found.scanned[rows] = part.slots, part.scores, part.scanned
    return found


def _hits(found: Found, ids: I64 | list[str], metric: str, seq: int) -> Hits:
    none = found.slots < 0
    if isinstance(ids, list):
        named: NDArray[Any] = np.full(found.slots.shape, None, object)
        named[~none] = [ids[slot] for slot in found.slots[~none].tolist()]
    else:
        named = np.where(none, -1, ids[found.slots] if len(ids) else -1)
    seen = distances(found.scores, metric)
    seen[none] = np.nan
    return Hits(named, seen, found.scanned, seq)
