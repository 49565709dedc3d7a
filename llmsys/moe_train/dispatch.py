"""Which rank computes which token: an exact table of integers from token counts and replica shares (Lazarus, Alg. 1).

The paper leaves rounding open; here every number is an integer and every rank computes the same table, so receive
counts need no second exchange. `schedule` is the NumPy definition that the tests trust. Knows no tensors.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["capacities", "schedule"]

Ints = NDArray[np.int64]


def capacities(tokens: Ints, split: NDArray[np.float64]) -> Ints:
    """How many tokens of expert e rank j computes, by largest remainders; ties go to the lower rank.

    Shapes: tokens [E] int64 below 2**53; split [E, N], every row shares that sum to 1, 0 where rank j holds no copy;
    returns [E, N] int64 with rows that sum to `tokens`, 0 where the share is 0. Raises ValueError for other shapes.
    """
    if split.ndim != 2 or tokens.shape != split.shape[:1]:
        raise ValueError(f"tokens {tokens.shape} and split {split.shape}; expected [E] and [E, N]")
    wanted = tokens[:, None] * split
    floor = np.floor(wanted).astype(np.int64)
    missing = tokens - floor.sum(axis=1)
    remainder = np.where(split > 0, wanted - floor, -1.0)
    rank = np.empty_like(floor)
    by_remainder = np.argsort(-remainder, axis=1, kind="stable")
    np.put_along_axis(rank, by_remainder, np.arange(split.shape[1])[None, :], axis=1)
    whole: Ints = floor + (rank < missing[:, None])
    return whole


def schedule(T: Ints, cap: Ints) -> NDArray[np.int64]:
    """D[e, i, j]: tokens of expert e that rank i sends to rank j (j = i: keeps).

    Shapes: T [E, N] tokens of e at rank i, cap [E, N] tokens of e that rank j computes, int64 from 0, rows of equal
    sums; returns [E, N, N] int64. Sums over j are T, over i are cap. A rank keeps min(cap, T); the rest goes from the
    surplus ranks to the deficit ranks in order of rank (north-west corner), so the fewest possible tokens move.
    Raises ValueError for shapes or sums that do not fit.
    """
    if T.ndim != 2 or T.shape != cap.shape:
        raise ValueError(f"T {T.shape} and cap {cap.shape}; expected two arrays [E, N]")
    experts, ranks = T.shape
    kept = np.minimum(T, cap)
    ends = np.empty((experts, 2 * ranks), np.int64)
    np.cumsum(T - kept, axis=1, out=ends[:, :ranks])
    np.cumsum(cap - kept, axis=1, out=ends[:, ranks:])
    if not np.array_equal(ends[:, ranks - 1], ends[:, -1]):
        raise ValueError("rows of T and cap have other sums; expected a capacity for every token")
    table = np.zeros((experts, ranks, ranks), np.int64)
    diagonal = np.arange(ranks)
    table[:, diagonal, diagonal] = kept
    # both ways of cutting 0…surplus into ranks, merged: a piece between two cuts has one source and one target
    order = np.argsort(ends, axis=1, kind="stable")
    cuts = np.take_along_axis(ends, order, axis=1)
    pieces = np.diff(cuts, axis=1, prepend=0)
    is_source = order < ranks
    source = np.cumsum(is_source, axis=1) - is_source
    target = np.arange(2 * ranks) - source
    expert, piece = np.nonzero(pieces)
    table[expert, source[expert, piece], target[expert, piece]] = pieces[expert, piece]
    return table
