"""Searches of many tenants' vectors: best-first over codes with an exact re-rank, and the exact scan of all.

The NumPy function `answer_twin` defines the results; `kernels.py` computes the same faster, one call for all queries.
Knows no names, ids or files.
"""

import heapq
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from types import ModuleType

import numpy as np

from llmsys.vindex.arrays import F32, F64, I32, I64
from llmsys.vindex.codes import QueryCodes, code_scores, encode_queries
from llmsys.vindex.metric import scores
from llmsys.vindex.search_space import SearchSpace, read_only
from llmsys.vindex.tenant_list import Run
from llmsys.vindex.tenant_tree import CHILDREN, END, FIRST_CHILD, NODE, START

__all__ = ["Effort", "Found", "Task", "answer", "answer_twin"]

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
class Task:
    """Queries [m, d] and, for each, its run's number; an effort for each run, None for the exact scan."""

    queries: F32
    runs: Sequence[Run]
    efforts: Sequence[Effort | None]
    whose: I64


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


def answer(space: SearchSpace, task: Task, k: int, *, threads: int = 1, compiling: bool = False) -> Found:
    """The min(k, held) nearest slots for every query, on so many threads.

    The compiled loops serve if they start at once, if the queries are worth the wait, or if `compiling` says so.
    """
    kernels = _kernels()
    if not (compiling or len(task.queries) >= WORTH_COMPILING or _start_at_once()):
        return answer_twin(space, task, k)
    found, inputs = Found.nothing(len(task.queries), k), (task.whose, _table(task, k), task.queries)
    frozen = (*(read_only(one) for one in inputs), *space.frozen)
    turn = np.argsort(task.whose, kind="stable")

    def work(part: I64) -> None:
        kernels.search_kernel(part, *frozen, space.metric == "l2", found.slots, found.scores, found.scanned)

    if threads == 1 or len(turn) < 2:
        work(turn)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, np.array_split(turn, min(threads, len(turn)))))
    return found


def answer_twin(space: SearchSpace, task: Task, k: int) -> Found:
    """`answer` in NumPy and heapq."""
    found, coded = Found.nothing(len(task.queries), k), encode_queries(task.queries, space.mean)
    for query, number in enumerate(task.whose.tolist()):
        run, effort = task.runs[number], task.efforts[number]
        if effort is None:
            kept, found.scanned[query] = run.members(), len(run)
        else:
            wide = Effort(max(effort.width, k), effort.patience)
            kept, found.scanned[query] = _walk(space, run, _Kept(space, coded, query, wide.width), wide.patience)
        pieces = [kept[start : start + EXACT_PIECE] for start in range(0, len(kept), EXACT_PIECE)]
        near = [scores(task.queries[query], space.vectors[piece], space.metric) for piece in pieces]
        _put(found, query, kept, np.concatenate([*near, np.zeros(0)]), space.order)
    return found


@cache
def _kernels() -> ModuleType:
    from llmsys.vindex import kernels

    return kernels


@cache
def _start_at_once() -> bool:
    """Whether the compiled loops were on disk when it was first asked."""
    from llmsys.vindex.compiled import is_ready

    return is_ready(_kernels().search_kernel)


def _table(task: Task, k: int) -> I64:
    """The table [runs, 8] that `search_kernel` takes."""
    efforts = ((0, 0) if one is None else (max(one.width, k), one.patience) for one in task.efforts)
    rows = [(*run.row, *effort) for run, effort in zip(task.runs, efforts, strict=True)]
    return np.array(rows, np.int64)


def _walk(space: SearchSpace, run: Run, kept: "_Kept", patience: int) -> tuple[I32, int]:
    """The kept slots of one query, and how many it looked at."""
    kept.offer(run.tail)
    scanned, idle = len(run.tail), 0
    frontier: list[tuple[float, int]] = [(0.0, 0)]
    while frontier and idle < patience:
        record = run.records[heapq.heappop(frontier)[1]]
        if record[CHILDREN]:
            below = np.arange(record[FIRST_CHILD], record[FIRST_CHILD] + record[CHILDREN])
            near = code_scores(space.nodes[run.records[below, NODE]], kept.coded, kept.query)
            for item in zip(near.tolist(), below.tolist(), strict=True):
                heapq.heappush(frontier, item)
            continue
        part = run.slots[record[START] : record[END]]
        idle = 0 if kept.offer(part) else idle + 1
        scanned += len(part)
    return kept.slots, scanned


class _Kept:
    """The `width` slots of least code score among those offered, ties to the smaller slot."""

    def __init__(self, space: SearchSpace, coded: QueryCodes, query: int, width: int) -> None:
        self.coded, self.query, self.slots = coded, query, np.zeros(0, np.int32)
        self._space, self._width = space, width
        self._scores: F32 = np.zeros(0, np.float32)

    def offer(self, slots: I32) -> bool:
        """Whether one of the slots came in."""
        both = np.concatenate([self.slots, slots])
        near = np.concatenate([self._scores, code_scores(self._space.rows[slots], self.coded, self.query)])
        best = np.lexsort((both, near))[: self._width]
        came_in = bool((best >= len(self.slots)).any())
        self.slots, self._scores = both[best], near[best]
        return came_in


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
