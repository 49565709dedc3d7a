"""Searches of one tenant's vectors: best-first over codes with an exact re-rank, and the exact scan of all.

These NumPy functions define the results; `kernels.py` computes the same faster. Knows no names, ids or files.
"""

import heapq
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmsys.vindex.arrays import F32, F64, I32, I64
from llmsys.vindex.codes import QueryCodes, encode_queries
from llmsys.vindex.metric import scores
from llmsys.vindex.slot_store import SlotStore
from llmsys.vindex.state import State
from llmsys.vindex.tenant_list import TenantList
from llmsys.vindex.tenant_tree import CHILDREN, END, FIRST_CHILD, NODE, START

__all__ = ["Effort", "Found", "best_first", "best_first_twin", "exact", "exact_twin"]

WORTH_COMPILING = 256
EXACT_PIECE = 2**16


@dataclass(frozen=True, slots=True)
class Effort:
    """How far a search goes: slots kept for the exact ranking, and leaves in a row that may bring nothing."""

    width: int
    patience: int

    @classmethod
    def level(cls, level: int, k: int) -> "Effort":
        """One of eleven steps, 0 the fastest, for k neighbours."""
        return cls(max(20, 2 * k) + 4 * level, round(4 * 1.6**level))


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """Slots [m, k] nearest first, -1 where there are no more; their scores; vectors looked at per query [m]."""

    slots: I32
    scores: F64
    scanned: I64

    @classmethod
    def nothing(cls, queries: int, k: int) -> "Found":
        """No slot for any query."""
        shape = (queries, k)
        return cls(np.full(shape, -1, np.int32), np.full(shape, np.inf), np.zeros(queries, np.int64))


def best_first(state: State, tenant: TenantList, queries: F32, k: int, effort: Effort, *, batch: int = 0) -> Found:
    """The k nearest of a tenant for queries [m, d], approximately; min(k, held) of them in any case.

    `batch` is the number of queries of the whole call, by which the loops are worth compiling or not."""
    kernels = _kernels(max(batch, len(queries)), "search_kernel")
    if kernels is None:
        return best_first_twin(state, tenant, queries, k, effort)
    store, found, coded = state.store, Found.nothing(len(queries), k), encode_queries(queries, state.store.mean)
    inputs = (
        *(queries, coded.code, coded.twice_scale, _records(state, tenant), state.clusters.centroids, tenant.slots),
        *(np.array(tenant.tail, np.int32), store.vectors, store.codes, store.scale, store.bias, store.order),
    )
    kernels.search_kernel(
        *(_read_only(one) for one in inputs),
        *(store.metric == "l2", store.metric == "ip", max(effort.width, k), effort.patience),
        *(found.slots, found.scores, found.scanned),
    )
    return found


def best_first_twin(state: State, tenant: TenantList, queries: F32, k: int, effort: Effort) -> Found:
    """`best_first` in NumPy and heapq."""
    found, coded = Found.nothing(len(queries), k), encode_queries(queries, state.store.mean)
    for row in range(len(queries)):
        kept, scanned = _walk(state, tenant, queries[row], _row(coded, row), max(effort.width, k), effort.patience)
        near = scores(queries[row], state.store.vectors[kept], state.store.metric)
        _put(found, row, kept, near, state.store.order)
        found.scanned[row] = scanned
    return found


def exact(state: State, tenant: TenantList, queries: F32, k: int, *, batch: int = 0) -> Found:
    """The k nearest of a tenant for queries [m, d]: all of its vectors are compared, ties go to the smaller id."""
    kernels = _kernels(max(batch, len(queries)), "exact_scores_kernel")
    if kernels is None:
        return exact_twin(state, tenant, queries, k)
    found, slots = Found.nothing(len(queries), k), tenant.members()
    near = np.empty(len(slots), np.float64)
    inputs = (_read_only(slots), _read_only(state.store.vectors), state.store.metric == "l2")
    for row in range(len(queries)):
        kernels.exact_scores_kernel(_read_only(queries[row]), *inputs, near)
        _put(found, row, slots, near, state.store.order)
        found.scanned[row] = len(slots)
    return found


def exact_twin(state: State, tenant: TenantList, queries: F32, k: int) -> Found:
    """`exact` in NumPy."""
    found, slots, store = Found.nothing(len(queries), k), tenant.members(), state.store
    pieces = [slots[start : start + EXACT_PIECE] for start in range(0, len(slots), EXACT_PIECE)]
    for row in range(len(queries)):
        near = [scores(queries[row], store.vectors[piece], store.metric) for piece in pieces]
        _put(found, row, slots, np.concatenate([*near, np.zeros(0)]), store.order)
        found.scanned[row] = len(slots)
    return found


@cache
def _loaded() -> ModuleType:
    from llmsys.vindex import kernels

    return kernels


def _kernels(queries: int, name: str) -> ModuleType | None:
    """The compiled loops, if they start at once or the work is worth the wait for the compiler."""
    from llmsys.vindex.compiled import is_ready

    kernels = _loaded()
    return kernels if queries >= WORTH_COMPILING or is_ready(getattr(kernels, name)) else None


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    """A plain read-only view: arrays of memory and of files are then one type, and the loops compile once."""
    view = array.view(np.ndarray)
    view.flags.writeable = False
    return view


def _row(coded: QueryCodes, row: int) -> tuple[F32, np.float32]:
    return coded.code[row], coded.twice_scale[row]


def _records(state: State, tenant: TenantList) -> I32:
    return tenant.tree(state.clusters, state.store.leaf, state.shape.max_shortlist)


def _walk(
    state: State, tenant: TenantList, query: F32, coded: tuple[F32, np.float32], width: int, patience: int
) -> tuple[I32, int]:
    """The kept slots of one query, and how many it looked at."""
    records, centroids = _records(state, tenant), state.clusters.centroids
    kept = _Kept(state.store, coded, width)
    kept.offer(np.array(tenant.tail, np.int32))
    scanned, idle = len(tenant.tail), 0
    frontier: list[tuple[float, int]] = [(0.0, 0)]
    while frontier and idle < patience:
        record = records[heapq.heappop(frontier)[1]]
        if record[CHILDREN]:
            below = np.arange(record[FIRST_CHILD], record[FIRST_CHILD] + record[CHILDREN])
            near = _node_scores(query, centroids[records[below, NODE]], state.store.metric)
            for item in zip(near.tolist(), below.tolist(), strict=True):
                heapq.heappush(frontier, item)
            continue
        run = tenant.slots[record[START] : record[END]]
        idle = 0 if kept.offer(run) else idle + 1
        scanned += len(run)
    return kept.slots, scanned


def _node_scores(query: F32, centroids: F32, metric: str) -> F64:
    return scores(query, centroids, "ip" if metric == "ip" else "l2")


class _Kept:
    """The `width` slots of least code score among those offered."""

    def __init__(self, store: SlotStore, coded: tuple[F32, np.float32], width: int) -> None:
        self._store, self._width = store, width
        self._code, self._twice = coded
        self.slots: I32 = np.zeros(0, np.int32)
        self._scores: F32 = np.zeros(0, np.float32)

    def offer(self, slots: I32) -> bool:
        """Whether one of the slots came in."""
        code: NDArray[np.int8] = self._store.codes[slots]
        dot = code.astype(np.float32) @ self._code
        near = self._store.bias[slots] - (self._twice * self._store.scale[slots]) * dot
        if len(self.slots) == self._width:
            better = near < self._scores.max()
            slots, near = slots[better], near[better]
        if not len(slots):
            return False
        slots, near = np.concatenate([self.slots, slots]), np.concatenate([self._scores, near])
        best = np.argsort(near, kind="stable")[: self._width]
        self.slots, self._scores = slots[best], near[best]
        return True


def _put(found: Found, row: int, slots: I32, near: F64, order: I64) -> None:
    """Write the nearest slots of one query, ties by `order`."""
    k = min(found.slots.shape[1], len(slots))
    if k == 0:
        return
    if k < len(slots):
        inside = np.flatnonzero(near <= np.partition(near, k - 1)[k - 1])
        slots, near = slots[inside], near[inside]
    best = np.lexsort((order[slots], near))[:k]
    found.slots[row, :k], found.scores[row, :k] = slots[best], near[best]
