"""Loops that every search ends with: a vector's score in float64, and its place among the nearest so far.

Vectors come as float32 [n, d], or as the bits of float16 [n, d] with no rows of float32.
"""

import numpy as np
from numpy.typing import NDArray

from llmsys.vindex.arrays import F32, F64, I32, I64
from llmsys.vindex.compiled import compiled, fetch_row, half_value

__all__ = ["Halves", "exact_score", "fetch_vector", "place"]

Halves = NDArray[np.uint16]


@compiled
def exact_score(query: F32, vectors: F32, halves: Halves, slot: int, l2: bool) -> float:
    """Squared distance under l2, minus the inner product otherwise, of a query [d] and the vector of a slot."""
    total = 0.0
    if len(halves) and l2:
        for j in range(len(query)):
            gap = np.float64(half_value(halves[slot, j])) - np.float64(query[j])
            total += gap * gap
    elif len(halves):
        for j in range(len(query)):
            total -= np.float64(half_value(halves[slot, j])) * np.float64(query[j])
    elif l2:
        for j in range(len(query)):
            gap = np.float64(vectors[slot, j]) - np.float64(query[j])
            total += gap * gap
    else:
        for j in range(len(query)):
            total -= np.float64(vectors[slot, j]) * np.float64(query[j])
    return total


@compiled
def fetch_vector(vectors: F32, halves: Halves, slot: int) -> None:
    """Ask the machine to bring a vector into the cache."""
    if len(halves):
        fetch_row(halves, slot)
    else:
        fetch_row(vectors, slot)


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
