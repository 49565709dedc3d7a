"""Searches of many tenants in one call, as loops that numba compiles: best-first over codes, and the exact scan.

The twins in `scan.py` are their definition and give the same results. A best-first query keeps the `width` best slots
by code score, ends after `patience` leaves in a row that bring none, and ranks what it kept by exact score.
"""

import numpy as np
from numpy.typing import NDArray

from llmsys.gpu.compiled import compiled as strict
from llmsys.vindex.arrays import F32, F64, I32, I64
from llmsys.vindex.bounded_scan import look_closely, scan_bounded
from llmsys.vindex.codes import Bytes
from llmsys.vindex.compiled import AHEAD, compiled, dot_rows, fetch_row, int32_at
from llmsys.vindex.ranking import Halves, exact_score, fetch_vector, place

__all__ = ["search_kernel"]

I8 = NDArray[np.int8]


@strict
def _code_score(code: I8, twice: np.float32, shift: int, rows: Bytes, numbers: F32, row: int) -> float:
    last = numbers.shape[1] - 1
    dot = dot_rows(rows, row, code) - shift
    return float(numbers[row, last] - (twice * numbers[row, last - 1]) * np.float32(dot))


@strict
def _encode(query: F32, mean: F32, code: I8) -> tuple[np.float32, int]:
    """Write a query's code [s], as `codes.encode_queries` does; its doubled scale, and what code + 128 adds."""
    largest = np.float32(0)
    for j in range(len(query)):
        largest = max(largest, abs(query[j] - mean[j]))
    scale = largest / np.float32(127)
    scale = scale if scale > 0 else np.float32(1)
    total = 0
    for j in range(len(query)):
        whole = min(max(np.rint((query[j] - mean[j]) / scale), np.float32(-127)), np.float32(127))
        code[j] = np.int8(whole)
        total += int(whole)
    return np.float32(2) * scale, 128 * total


@compiled
def _worse(key: float, item: int, other: float, other_item: int) -> bool:
    return key > other or (key == other and item > other_item)


@compiled
def _sink(keys: F64, items: I64, size: int) -> None:
    """Restore a heap with the worst first, whose root alone is out of place."""
    at = 0
    while True:
        child = 2 * at + 1
        if child >= size:
            return
        if child + 1 < size and _worse(keys[child + 1], items[child + 1], keys[child], items[child]):
            child += 1
        if not _worse(keys[child], items[child], keys[at], items[at]):
            return
        keys[at], keys[child] = keys[child], keys[at]
        items[at], items[child] = items[child], items[at]
        at = child


@compiled
def _rise(keys: F64, items: I64, at: int) -> None:
    """Restore a heap with the worst first, whose last entry alone is out of place."""
    while at > 0:
        parent = (at - 1) // 2
        if not _worse(keys[at], items[at], keys[parent], items[parent]):
            return
        keys[at], keys[parent] = keys[parent], keys[at]
        items[at], items[parent] = items[parent], items[at]
        at = parent


@strict
def _scan(  # noqa: PLR0917
    code: I8, twice: np.float32, shift: int, slots: I32, start: int, end: int, rows: Bytes, numbers: F32, keys: F64,
    items: I64, size: int, width: int,
) -> tuple[int, bool]:  # fmt: skip
    """Offer slots[start:end] to the `width` kept ones (a heap, worst first); how many are kept, and whether one came.

    The rows a few steps ahead are fetched early: what bounds the loop is the wait for memory.
    """
    changed = False
    last = np.uint64(numbers.shape[1] - 1)
    for at in range(start, min(start + AHEAD, end)):
        fetch_row(rows, slots[at])
    for at in range(start, end):
        if at + AHEAD < end:
            fetch_row(rows, slots[at + AHEAD])
        slot: int = np.uint64(slots[at])  # type: ignore[assignment]
        dot = np.float32(dot_rows(rows, slot, code) - shift)
        score = float(numbers[slot, last] - (twice * numbers[slot, last - np.uint64(1)]) * dot)
        if size < width:
            keys[size], items[size] = score, slot
            _rise(keys, items, size)
            size += 1
            changed = True
        elif score <= keys[0] and _worse(keys[0], items[0], score, slot):
            keys[0], items[0] = score, slot
            _sink(keys, items, size)
            changed = True
    return size, changed


@compiled
def _walk(  # noqa: PLR0913, PLR0917
    code: I8, twice: np.float32, shift: int, slots: I32, tail: I32, records: I32, nodes: Bytes, node_numbers: F32,
    rows: Bytes, numbers: F32, patience: int, width: int, keys: F64, items: I64, frontier: F64, pending: I64,
) -> tuple[int, int]:  # fmt: skip
    """Fill keys and items with the kept slots of one query; how many, and how many it looked at."""
    kept, _ = _scan(code, twice, shift, tail, 0, len(tail), rows, numbers, keys, items, 0, width)
    seen, idle, waiting = len(tail), 0, 1
    frontier[0], pending[0] = 0.0, 0
    while waiting > 0 and idle < patience:
        at = -pending[0] * 5
        waiting -= 1
        frontier[0], pending[0] = frontier[waiting], pending[waiting]
        _sink(frontier, pending, waiting)
        first, count = records[at + 3], records[at + 4]
        for child in range(first, first + count):
            # The heap gives the worst first: the nearest node is the one with the largest negative score.
            score = _code_score(code, twice, shift, nodes, node_numbers, int(records[child * 5]))
            frontier[waiting], pending[waiting] = -score, -child
            _rise(frontier, pending, waiting)
            waiting += 1
        if count == 0:
            start, end = records[at + 1], records[at + 2]
            kept, changed = _scan(code, twice, shift, slots, start, end, rows, numbers, keys, items, kept, width)
            seen += end - start
            idle = 0 if changed else idle + 1
    return kept, seen


@compiled
def search_kernel(  # noqa: PLR0913, PLR0917
    turn: I64, whose: I64, table: I64, queries: F32, mean: F32, nodes: Bytes, node_numbers: F32, rows: Bytes,
    numbers: F32, vectors: F32, halves: Halves, order: I64, l2: bool, found: I32, score: F64, scanned: I64,
) -> None:  # fmt: skip
    """Answer the queries [m, d] that `turn` lists into found [m, k], score [m, k] and scanned [m].

    whose [m] is a query's row of the table [g, 8]: address and length of the slots, of the tail and of the records
    (flat) of a tenant, then width (0: exact) and patience. found comes filled with -1.
    """
    code, fine = np.zeros(rows.shape[1], np.int8), np.zeros(rows.shape[1], np.int8)
    most = max(1, table[:, 6].max())
    keys, items = np.empty(most, np.float64), np.empty(most, np.int64)
    frontier, pending = np.empty(table[:, 5].max() + 1, np.float64), np.empty(table[:, 5].max() + 1, np.int64)
    for q in turn:
        row = table[whose[q]]
        slots, tail, records = int32_at(row[0], row[1]), int32_at(row[2], row[3]), int32_at(row[4], row[5])
        count = 0
        if row[6] == 0:
            sight = look_closely(queries[q], mean, code, fine)
            for part in (slots, tail):
                count = scan_bounded(
                    part,
                    queries[q],
                    code,
                    fine,
                    sight,
                    rows,
                    numbers,
                    vectors,
                    halves,
                    order,
                    l2,
                    found[q],
                    score[q],
                    count,
                )
            scanned[q] = len(slots) + len(tail)
            continue
        twice, shift = _encode(queries[q], mean, code)
        kept, scanned[q] = _walk(
            code, twice, shift, slots, tail, records, nodes, node_numbers, rows, numbers, row[7], row[6],
            keys, items, frontier, pending,
        )  # fmt: skip
        for i in range(kept):
            fetch_vector(vectors, halves, items[i])
        for i in range(kept):
            count = place(
                items[i], exact_score(queries[q], vectors, halves, items[i], l2), order, found[q], score[q], count
            )
