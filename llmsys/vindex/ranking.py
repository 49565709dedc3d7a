"""Loops that every search ends with: a vector's score in float64, and its place among the nearest so far."""

import numpy as np

from llmsys.vindex.arrays import F32, F64, I32, I64
from llmsys.vindex.compiled import compiled

__all__ = ["exact_score", "place"]


@compiled
def exact_score(query: F32, vectors: F32, slot: int, l2: bool) -> float:
    """Squared distance under l2, minus the inner product otherwise, of a query [d] and vectors[slot]."""
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
def place(slot: int, exact: float, order: I64, found: I32, score: F64, count: int) -> int:
    """Put a slot into the `count` nearest found [k] and score [k], ties to the smaller `order`; their new number."""
    at = count
    while at > 0 and (exact < score[at - 1] or (exact == score[at - 1] and order[slot] < order[found[at - 1]])):
        at -= 1
    if at >= len(found):
        return count
    count = min(count + 1, len(found))
    for j in range(count - 1, at, -1):
        found[j], score[j] = found[j - 1], score[j - 1]
    found[at], score[at] = slot, exact
    return count
