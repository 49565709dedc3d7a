"""The order of VTC and LCF over many lines, compiled: the simulator's queues, with every request served at once.

The same order as the policies give, which a test holds it to. Lines that wait stay in a pool; what was written leaves
it when the pool has grown to several windows, so a line costs a constant time.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmsys.fair_queue.request_lines import RequestLines
from llmsys.fair_queue.sim.queues import WAITING, Queues, least_queue, new_queues, pop_head, push
from llmsys.gpu.compiled import compiled

__all__ = ["BulkOrder"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
# more lines than a block can hold
ROOM = 1 << 16


class _Pool(NamedTuple):
    """Per place of the pool: tenant, what its prompt costs, and the rest of its cost."""

    tenant: Ints
    charge: Floats
    rest: Floats


class _Rule(NamedTuple):
    """Each tenant's weight, how many lines may wait, and whether tenants that come back are lifted."""

    weight: Floats
    window: int
    lift: bool


class BulkOrder:
    """Feed it blocks of lines; it gives back those whose turn has come, so that fewer than `window` wait."""

    def __init__(self, window: int, *, wp: float, wq: float, lift: bool, weights: Mapping[str, float]) -> None:
        room = 2 * window + ROOM
        self._wp, self._wq = wp, wq
        self._weights = weights
        self._index: dict[str, int] = {}
        self._rule = _Rule(np.ones(1024), window, lift)
        self._queues = new_queues(np.zeros(1024), room)
        self._pool = _Pool(np.zeros(room, np.int64), np.zeros(room), np.zeros(room))
        self._lines: list[bytes] = []

    def feed(self, block: RequestLines) -> list[bytes]:
        """Take in lines and return those to write now."""
        count = len(block.lines)
        if len(self._lines) + count > len(self._pool.tenant):
            self._compact()
        first = len(self._lines)
        new = slice(first, first + count)
        self._lines += block.lines
        self._pool.tenant[new] = self._indices(block.tenants)
        self._pool.charge[new] = self._wp * np.array(block.prompt_tokens, np.float64)
        full = self._pool.charge[new] + self._wq * np.array(block.output_tokens, np.float64)
        self._pool.rest[new] = full - self._pool.charge[new]
        out = np.empty(count, np.int64)
        written = _serve(self._queues, self._pool, out, self._rule, first, first + count)
        return self._taken(out[:written])

    def drain(self) -> list[bytes]:
        """Return all that wait; nothing comes after."""
        out = np.empty(self._queues.size[WAITING], np.int64)
        return self._taken(out[: _serve(self._queues, self._pool, out, self._rule._replace(window=0), 0, 0)])

    def _taken(self, places: Ints) -> list[bytes]:
        lines = self._lines
        return [lines[place] for place in places.tolist()]

    def _compact(self) -> None:
        """Keep in the pool only lines that wait, renumbered."""
        places = np.empty(self._queues.size[WAITING], np.int64)
        _renumber(self._queues, places)
        self._lines = self._taken(places)
        for column in self._pool:
            column[: len(places)] = column[places]

    def _indices(self, tenants: list[str]) -> Ints:
        """Each tenant's number, by first appearance; new ones get a queue."""
        index = self._index
        numbers = np.array([index.get(name, -1) for name in tenants], np.int64)
        unknown = np.flatnonzero(numbers < 0)
        for place in unknown.tolist():
            name = tenants[place]
            numbers[place] = index.setdefault(name, len(index))
        while len(index) > len(self._rule.weight):
            self._queues = _widened(self._queues)
            self._rule = self._rule._replace(
                weight=np.concatenate([self._rule.weight, np.ones_like(self._rule.weight)])
            )
        if self._weights:
            for place in unknown.tolist():
                self._rule.weight[numbers[place]] = self._weights.get(tenants[place], 1.0)
        return numbers


def _widened(queues: Queues) -> Queues:
    """The same with room for twice as many queues."""
    more = new_queues(np.zeros(len(queues.unit)), 0)
    joined = [np.concatenate([ours, theirs]) for ours, theirs in zip(queues, more, strict=True)]
    return Queues(*joined)._replace(following=queues.following, size=queues.size)


@compiled
def _serve(q: Queues, pool: _Pool, out: Ints, rule: _Rule, first: int, last: int) -> int:
    """Queue the lines [first, last) one by one and take one out whenever the window is full; all for a window of 0."""
    count, r, window = 0, first, rule.window
    while r < last or (window == 0 and q.size[WAITING] > 0):
        if r < last:
            push(q, pool.tenant[r], r, rule.lift)
            r += 1
        if q.size[WAITING] >= window:
            i = least_queue(q)
            served = q.head[i]
            pop_head(q, i)
            # two charges, as the policy makes them, so that rounding is the same
            q.counter[i] += pool.charge[served] / rule.weight[i]
            q.counter[i] += pool.rest[served] / rule.weight[i]
            out[count] = served
            count += 1
    return count


@compiled
def _renumber(q: Queues, places: Ints) -> None:
    """Number the waiting lines anew, queue by queue; `places` says where each was."""
    following, count = q.following.copy(), 0
    for i in range(len(q.waiting)):
        r = q.head[i]
        for k in range(q.waiting[i]):
            if k == 0:
                q.head[i] = count
            else:
                q.following[count - 1] = count
            places[count] = r
            r = following[r]
            q.tail[i] = count
            count += 1
