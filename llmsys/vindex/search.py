"""Queries of many tenants in one call: who may see what, which search serves it, and ids and distances of the result.

Knows no files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmsys.errors import UsageFault
from llmsys.vindex.arrays import F32, I32, I64
from llmsys.vindex.index_files import PlanRecord
from llmsys.vindex.metric import distances, prepared
from llmsys.vindex.scan import Effort, Found, best_first, exact
from llmsys.vindex.slot_store import Id
from llmsys.vindex.state import State
from llmsys.vindex.tenant_list import TenantList
from llmsys.vindex.where import evaluate, parse

__all__ = ["MAX_K", "Hits", "planned", "search", "visible"]

MAX_K = 10_000


@dataclass(frozen=True, slots=True, eq=False)
class Hits:
    """Answers of m queries, nearest first.

    ids [m, k]: int64 with -1 where there are no more, or str with None; distances [m, k] float32, NaN there: squared
    distances under l2, similarities under ip and cosine; scanned [m]: vectors looked at.
    """

    ids: NDArray[Any]
    distances: F32
    scanned: I64

    def row(self, query: int) -> tuple[list[Id], list[float]]:
        """Ids and distances of one query, without padding."""
        count = int((~np.isnan(self.distances[query])).sum())
        return self.ids[query, :count].tolist(), self.distances[query, :count].tolist()


def search(
    state: State,
    queries: NDArray[Any],
    tenants: str | Sequence[str | None] | None,
    *,
    k: int,
    where: str | None,
    effort: Effort | None,
    plans: Sequence[PlanRecord],
) -> Hits:
    """The k nearest vectors that each query's tenant may see and `where` holds for; None sees all.

    Without an effort, `plans` say one by the size of what is visible; where they say none, all of it is compared.
    Raises BadInput for queries that do not fit, UsageFault for k, `where` and a wrong number of tenants.
    """
    store = state.store
    if not 1 <= k <= MAX_K:
        raise UsageFault(f"k is {k}; expected 1 to {MAX_K}")
    rows = prepared(np.atleast_2d(queries), store.metric, "queries", store.vectors.shape[1])
    found = Found.nothing(len(rows), k)
    for name, numbers in _grouped(tenants, len(rows)).items():
        seen = visible(state, name, where)
        if seen is None:
            continue
        chosen = planned(plans, len(seen)) if effort is None else effort
        mine = rows[numbers]
        if chosen is None:
            part = exact(state, seen, mine, k, batch=len(rows))
        else:
            part = best_first(state, seen, mine, k, chosen, batch=len(rows))
        found.slots[numbers], found.scores[numbers], found.scanned[numbers] = part.slots, part.scores, part.scanned
    return _hits(state, found)


def visible(state: State, tenant: str | None, where: str | None) -> TenantList | None:
    """What a tenant sees of the vectors that `where` holds for; None if that is nothing. Tenant None sees all."""
    if where is None and tenant is not None:
        return state.tenant(tenant)
    everything = state.store.live_slots() if tenant is None else np.sort(_members(state, tenant))
    slots = everything if where is None else evaluate(parse(where), lambda name: _members(state, name), everything)
    return state.view(slots) if len(slots) else None


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


def _grouped(tenants: str | Sequence[str | None] | None, queries: int) -> dict[str | None, list[int]]:
    """The numbers of the queries of each tenant."""
    if tenants is None or isinstance(tenants, str):
        return {tenants: list(range(queries))}
    if len(tenants) != queries:
        raise UsageFault(f"{len(tenants)} tenants for {queries} queries; expected one for each")
    groups: dict[str | None, list[int]] = {}
    for number, name in enumerate(tenants):
        groups.setdefault(name, []).append(number)
    return groups


def _hits(state: State, found: Found) -> Hits:
    ids, none = state.store.ids, found.slots < 0
    numbers = not ids or isinstance(ids[0], int)
    named = np.full(found.slots.shape, -1 if numbers else None, np.int64 if numbers else object)
    named[~none] = [ids[slot] for slot in found.slots[~none].tolist()]
    seen = distances(found.scores, state.store.metric)
    seen[none] = np.nan
    return Hits(named, seen, found.scanned)
