"""Waiting requests for the compiled simulator: a FIFO per queue in linked lists, a heap of queues by counter.

The same rules as `policy.vtc`, on arrays: keys in the heap may be stale and low, never high; ties go to the lower
index. First come, first served is one queue for all. Counters are brought up to date only when somebody looks: each
running request costs `unit` per decode step.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmsys.gpu.compiled import compiled, inlined

__all__ = ["STEP", "WAITING", "Queues", "least_queue", "lowered", "new_queues", "next_key", "pop_head", "push", "touch"]

# places in Queues.size
HEAP, WAITING, LAST_LEFT, STEP = range(4)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Queues(NamedTuple):
    """Per queue: counter (cost units per weight) as of decode step `touched`, unit, waiting, running, head and tail
    (requests, -1 for none), place in the heap (-1 outside) and key there. `heap` lists queues; `following` links
    requests; `size` holds sizes, the queue that emptied last and the number of the decode step."""

    counter: Floats
    unit: Floats
    touched: Ints
    waiting: Ints
    running: Ints
    head: Ints
    tail: Ints
    place: Ints
    key: Floats
    heap: Ints
    following: Ints
    size: Ints


def new_queues(unit: Floats, requests: int) -> Queues:
    """Empty queues, one per unit."""
    queues = len(unit)
    none = np.full(queues, -1, np.int64)
    return Queues(
        counter=np.zeros(queues),
        unit=unit,
        touched=np.zeros(queues, np.int64),
        waiting=np.zeros(queues, np.int64),
        running=np.zeros(queues, np.int64),
        head=none.copy(),
        tail=none.copy(),
        place=none.copy(),
        key=np.zeros(queues),
        heap=none,
        following=np.full(requests, -1, np.int64),
        size=np.array([0, 0, -1, 0], np.int64),
    )


@inlined
def _before(key: Floats, a: int, b: int) -> bool:
    return bool(key[a] < key[b] or (key[a] == key[b] and a < b))


@inlined
def _rise(q: Queues, at: int) -> None:
    heap, place, key = q.heap, q.place, q.key
    moving = heap[at]
    while at > 0 and _before(key, moving, heap[(at - 1) // 2]):
        heap[at] = heap[(at - 1) // 2]
        place[heap[at]] = at
        at = (at - 1) // 2
    heap[at] = moving
    place[moving] = at


@inlined
def _sink(q: Queues, at: int) -> None:
    heap, place, key = q.heap, q.place, q.key
    moving, size = heap[at], q.size[HEAP]
    while True:
        child = 2 * at + 1
        if child + 1 < size and _before(key, heap[child + 1], heap[child]):
            child += 1
        if child >= size or _before(key, moving, heap[child]):
            break
        heap[at] = heap[child]
        place[heap[at]] = at
        at = child
    heap[at] = moving
    place[moving] = at


@inlined
def touch(q: Queues, i: int) -> None:
    """Charge queue i's running requests for the decode steps since it was looked at last."""
    q.counter[i] += q.running[i] * q.unit[i] * (q.size[STEP] - q.touched[i])
    q.touched[i] = q.size[STEP]


@inlined
def lowered(q: Queues, i: int) -> None:
    """Queue i's counter may have fallen below its key."""
    if q.place[i] >= 0 and q.counter[i] < q.key[i]:
        q.key[i] = q.counter[i]
        _rise(q, q.place[i])


@compiled
def least_queue(q: Queues) -> int:
    """The queue with the least counter among those that wait, -1 if none does."""
    while q.size[HEAP] > 0:
        top = q.heap[0]
        touch(q, top)
        if q.waiting[top] == 0:
            q.place[top] = -1
            q.size[HEAP] -= 1
            if q.size[HEAP] > 0:
                q.heap[0] = q.heap[q.size[HEAP]]
                _sink(q, 0)
        elif q.counter[top] != q.key[top]:
            q.key[top] = q.counter[top]
            _sink(q, 0)
        else:
            return int(top)
    return -1


@inlined
def next_key(q: Queues) -> float:
    """A lower bound of all counters in the queue but the least's; infinity if there is no other."""
    bound = np.inf
    for child in range(1, min(3, q.size[HEAP])):
        bound = min(bound, q.key[q.heap[child]])
    return bound


@inlined
def push(q: Queues, i: int, request: int, lift: bool) -> None:
    """Append a request to queue i; with `lift`, one that had none waiting is lifted first (VTC, Algorithm 1)."""
    touch(q, i)
    if q.waiting[i] == 0:
        if lift:
            least = least_queue(q)
            least = q.size[LAST_LEFT] if least < 0 else least
            if least >= 0:
                touch(q, least)
                q.counter[i] = max(q.counter[i], q.counter[least])
        q.head[i] = request
    else:
        q.following[q.tail[i]] = request
    q.tail[i] = request
    q.waiting[i] += 1
    q.size[WAITING] += 1
    if q.place[i] < 0:
        q.key[i] = q.counter[i]
        q.heap[q.size[HEAP]] = i
        q.size[HEAP] += 1
        _rise(q, q.size[HEAP] - 1)
    else:
        lowered(q, i)


@inlined
def pop_head(q: Queues, i: int) -> None:
    """Take the oldest request off queue i."""
    q.head[i] = q.following[q.head[i]]
    q.waiting[i] -= 1
    q.size[WAITING] -= 1
    if q.waiting[i] == 0:
        q.size[LAST_LEFT] = i
