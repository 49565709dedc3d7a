"""Best-first search of a tenant's tree over int8 codes, and the exact scan, as loops that numba compiles.

The twins in `scan.py` are their definition and give the same results. Every query keeps the `width` best slots by code
score, ends after `patience` leaves in a row that bring none, and ranks what it kept by exact score.
"""

import numpy as np
from numpy.typing import NDArray

from llmsys.vindex.arrays import F32, F64, I32, I64
from llmsys.vindex.compiled import compiled

__all__ = ["exact_scores_kernel", "search_kernel"]


@compiled
def exact_scores_kernel(query: F32, slots: I32, vectors: F32, l2: bool, result: F64) -> None:
    """Write the score of every slot [n] for one query [d] to result [n]."""
    for at in range(len(slots)):
        result[at] = _exact(query, vectors, slots[at], l2)


@compiled
def _exact(query: F32, vectors: F32, slot: int, l2: bool) -> float:
    total = 0.0
    if l2:
        for j in range(len(query)):
            gap = np.float64(vectors[slot, j]) - np.float64(query[j])
            total += gap * gap
        return total
    for j in range(len(query)):
        total -= np.float64(vectors[slot, j]) * np.float64(query[j])
    return total


@compiled
def _node_score(query: F32, centroids: F32, node: int, ip: bool) -> float:
    total = np.float32(0.0)
    if ip:
        for j in range(len(query)):
            total -= centroids[node, j] * query[j]
        return np.float64(total)
    for j in range(len(query)):
        gap = centroids[node, j] - query[j]
        total += gap * gap
    return np.float64(total)


@compiled
def _sink(keys: F64, items: I64, size: int) -> None:
    """Restore a heap with the largest key first, whose root alone is out of place."""
    at = 0
    while True:
        child = 2 * at + 1
        if child >= size:
            return
        if child + 1 < size and keys[child + 1] > keys[child]:
            child += 1
        if keys[at] >= keys[child]:
            return
        keys[at], keys[child] = keys[child], keys[at]
        items[at], items[child] = items[child], items[at]
        at = child


@compiled
def _rise(keys: F64, items: I64, at: int) -> None:
    """Restore a heap with the largest key first, whose last entry alone is out of place."""
    while at > 0:
        parent = (at - 1) // 2
        if keys[parent] >= keys[at]:
            return
        keys[at], keys[parent] = keys[parent], keys[at]
        items[at], items[parent] = items[parent], items[at]
        at = parent


@compiled
def _scan(  # noqa: PLR0917
    code: F32,
    twice: float,
    slots: I32,
    codes: NDArray[np.int8],
    scale: F32,
    bias: F32,
    keys: F64,
    items: I64,
    size: int,
) -> tuple[int, bool]:
    """Offer slots to the kept ones (a heap, worst first); returns how many are kept and whether one came in."""
    changed = False
    for at in range(len(slots)):
        slot = slots[at]
        dot = np.float32(0.0)
        for j in range(len(code)):
            dot += code[j] * np.float32(codes[slot, j])
        score = np.float64(bias[slot] - (twice * scale[slot]) * dot)
        if size < len(keys):
            keys[size], items[size] = score, slot
            _rise(keys, items, size)
            size += 1
            changed = True
        elif score < keys[0]:
            keys[0], items[0] = score, slot
            _sink(keys, items, size)
            changed = True
    return size, changed


@compiled
def _rank(  # noqa: PLR0917
    query: F32, vectors: F32, order: I64, l2: bool, items: I64, size: int, found: I32, score: F64
) -> None:
    """Put the nearest of the kept slots into found [k] and score [k], nearest first, ties to the smaller `order`."""
    k = len(found)
    count = 0
    for i in range(size):
        slot = items[i]
        exact = _exact(query, vectors, slot, l2)
        at = count
        while at > 0 and (exact < score[at - 1] or (exact == score[at - 1] and order[slot] < order[found[at - 1]])):
            at -= 1
        if at >= k:
            continue
        count = min(count + 1, k)
        for j in range(count - 1, at, -1):
            found[j], score[j] = found[j - 1], score[j - 1]
        found[at], score[at] = slot, exact


@compiled
def search_kernel(  # noqa: PLR0913, PLR0917
    queries: F32, query_codes: F32, twice: F32, records: I32, centroids: F32, slots: I32, tail: I32, vectors: F32,
    codes: NDArray[np.int8], scale: F32, bias: F32, order: I64, l2: bool, ip: bool, width: int, patience: int,
    found: I32, score: F64, scanned: I64,
) -> None:  # fmt: skip
    """Answer queries [m, d] of one tenant into found [m, k], score [m, k] and scanned [m].

    records [r, 5] is the tenant's tree over slots [n]; tail [t] is always scanned; found comes filled with -1.
    """
    keys = np.empty(width, np.float64)
    items = np.empty(width, np.int64)
    frontier = np.empty(len(records) + 1, np.float64)
    nodes = np.empty(len(records) + 1, np.int64)
    for q in range(len(queries)):
        kept, _ = _scan(query_codes[q], twice[q], tail, codes, scale, bias, keys, items, 0)
        seen, idle = len(tail), 0
        frontier[0], nodes[0] = 0.0, 0
        open_nodes = 1
        while open_nodes > 0 and idle < patience:
            at = nodes[0]
            open_nodes -= 1
            frontier[0], nodes[0] = frontier[open_nodes], nodes[open_nodes]
            _sink(frontier, nodes, open_nodes)
            first, count = records[at, 3], records[at, 4]
            for child in range(first, first + count):
                # The heap gives the largest first: the nearest node is the one with the largest negative score.
                frontier[open_nodes] = -_node_score(queries[q], centroids, records[child, 0], ip)
                nodes[open_nodes] = child
                _rise(frontier, nodes, open_nodes)
                open_nodes += 1
            if count == 0:
                run = slots[records[at, 1] : records[at, 2]]
                kept, changed = _scan(query_codes[q], twice[q], run, codes, scale, bias, keys, items, kept)
                seen += len(run)
                idle = 0 if changed else idle + 1
        scanned[q] = seen
        _rank(queries[q], vectors, order, l2, items, kept, found[q], score[q])
