"""Choosing exactly k points with given marginals, spread over the space: binary pivotal sampling along a tree.

After Shimizu, Cheng, Musco, Weare (ICLR 2024): leaves are the points, a node halves its points along their widest
direction, and siblings compete, so that near points rarely both stay. Compiled by numba. Knows no leverage.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["bernoulli", "marginals", "pivotal", "settle", "tree_order"]

SNAP = 1e-12
SAMPLED = 512
POWER_STEPS = 4

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


def marginals(scores: Floats, k: int) -> Floats:
    """p [n] = min(1, c·score) with Σp = k exactly, c by sorting. Where k scores or fewer are above 0, those get 1.

    Raises ValueError for a negative score or k < 0.

    >>> marginals(np.array([8.0, 1.0, 1.0, 0.0]), 2)
    array([1. , 0.5, 0.5, 0. ])
    """
    if k < 0 or not (scores >= 0).all():
        raise ValueError(f"k {k} and scores of at least {scores.min(initial=0.0)}; expected both of at least 0")
    if np.count_nonzero(scores) <= k:
        return (scores > 0).astype(np.float64)
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    rest = np.cumsum(ranked[::-1])[::-1]
    sure = np.arange(k)
    # with the first j points certain, the next one must stay below 1: (k − j)·score_j < Σ of what is left
    free = np.flatnonzero((k - sure) * ranked[:k] < rest[:k])
    certain = int(free[0]) if free.size else k
    p = np.ones(len(scores))
    if certain < k:
        p[order[certain:]] = np.minimum(1.0, ranked[certain:] / rest[certain] * (k - certain))
    else:
        p[order[k:]] = 0.0
    return p


def bernoulli(p: Floats, rng: np.random.Generator) -> Indices:
    """Rows kept, each by a coin of its own."""
    return np.flatnonzero(rng.random(len(p)) < p)


def pivotal(p: Floats, coordinates: NDArray[np.float32] | None, rng: np.random.Generator) -> Indices:
    """Rows kept, sorted: marginals p [n], exactly Σp of them where that is an integer.

    `coordinates` [n, q] place the rows for the tree; without them rows meet in random order.
    """
    sure = np.flatnonzero(p >= 1 - SNAP)
    open_rows = np.flatnonzero((p > SNAP) & (p < 1 - SNAP))
    if open_rows.size == 0:
        return sure
    if coordinates is None:
        order = rng.permutation(open_rows.size)
    else:
        order = tree_order(np.ascontiguousarray(coordinates[open_rows]), int(rng.integers(2**31)))
    chances = p[open_rows][order]
    kept = settle(chances, rng.random(open_rows.size))
    return np.sort(np.concatenate([sure, open_rows[order[kept]]]))


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _settle(p: Floats, coins: Floats, kept: NDArray[np.bool_]) -> None:
    """Let halves of every range of leaves compete, children before parents, with one coin per meeting.

    `waiting` holds the open leaf of finished subtrees; a range [low, high) meets at its middle as the tree was split.
    """
    n = len(p)
    spans = np.empty((128, 3), np.int64)
    spans[0] = (0, n, 0)
    depth, met = 1, 0
    waiting = np.empty(128, np.int64)
    held = 0
    while depth:
        low, high, done = spans[depth - 1]
        if high - low == 1:
            depth -= 1
            waiting[held] = low
            held += 1
        elif done == 0:
            middle = (low + high) // 2
            spans[depth - 1, 2] = 1
            spans[depth] = (middle, high, 0)
            spans[depth + 1] = (low, middle, 0)
            depth += 2
        else:
            depth -= 1
            right, left = waiting[held - 1], waiting[held - 2]
            held -= 1
            total = p[left] + p[right]
            coin = coins[met]
            met += 1
            if total <= 1.0:
                winner = right if coin * total < p[right] else left
                p[left], p[right] = 0.0, 0.0
                p[winner] = total
                waiting[held - 1] = winner
            else:
                stays = left if coin * (2.0 - total) < 1.0 - p[right] else right
                other = right if stays == left else left
                p[stays], p[other] = 1.0, total - 1.0
                kept[stays] = True
                waiting[held - 1] = other
    last = waiting[0]
    kept[last] = coins[met] < p[last]


def settle(p: Floats, coins: Floats) -> NDArray[np.bool_]:
    """Which leaves [n] stay, given their chances in (0, 1) in tree order and n uniform coins (n − 1 meetings, one end).

    A meeting of chances a, b with s = a + b ≤ 1 leaves one of them with s, the second one with probability b/s; with
    s > 1 one stays for good, the first one with probability (1 − b)/(2 − s), and the other goes on with s − 1.
    """
    if p.shape != coins.shape or p.ndim != 1 or len(p) == 0:
        raise ValueError(f"chances {p.shape} and coins {coins.shape}; expected two equal shapes [n], n above 0")
    kept = np.zeros(len(p), np.bool_)
    left = p.copy()
    _settle(left, np.append(coins[:-1], _last_coin(p, coins[-1])), kept)
    return kept


def _last_coin(p: Floats, coin: float) -> float:
    """The last coin, or a certain one where Σp is an integer but for rounding."""
    fraction = float(p.sum()) % 1.0
    near_whole = min(fraction, 1 - fraction) < 1e-6
    return 0.5 if near_whole else float(coin)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def tree_order(coordinates: NDArray[np.float32], seed: int) -> Indices:
    """Rows [n] of `coordinates` [n, q] in the order of a tree's leaves: every range halves along its widest direction.

    The direction comes from 4 steps of the power method on at most 512 points of the range.
    """
    np.random.seed(seed)
    n, q = coordinates.shape
    order = np.arange(n)
    key = np.empty(n, np.float64)
    spans = np.empty((128, 2), np.int64)
    spans[0] = (0, n)
    depth = 1
    while depth:
        depth -= 1
        low, high = spans[depth]
        if high - low < 3:
            continue
        direction = _widest(coordinates, order, low, high, q)
        for at in range(low, high):
            total = 0.0
            for column in range(q):
                total += coordinates[order[at], column] * direction[column]
            key[at] = total
        middle = (low + high) // 2
        _partition(key, order, low, high - 1, middle)
        spans[depth] = (middle, high)
        spans[depth + 1] = (low, middle)
        depth += 2
    return order


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _widest(coordinates: NDArray[np.float32], order: Indices, low: int, high: int, q: int) -> Floats:
    """A direction [q] along which the points of a range vary most."""
    step = max(1, (high - low) // SAMPLED)
    mean = np.zeros(q)
    count = 0
    for at in range(low, high, step):
        mean += coordinates[order[at]]
        count += 1
    mean /= count
    direction = np.random.standard_normal(q)
    for _ in range(POWER_STEPS):
        fresh = np.zeros(q)
        for at in range(low, high, step):
            row = coordinates[order[at]]
            along = 0.0
            for column in range(q):
                along += (row[column] - mean[column]) * direction[column]
            for column in range(q):
                fresh[column] += along * (row[column] - mean[column])
        length = np.sqrt((fresh * fresh).sum())
        if length == 0.0:
            break
        direction = fresh / length
    return direction


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _partition(key: Floats, order: Indices, first: int, last: int, middle: int) -> None:
    """Quickselect: everything before `middle` is at most everything from it on."""
    while first < last:
        pivot = key[(first + last) // 2]
        i, j = first, last
        while i <= j:
            while key[i] < pivot:
                i += 1
            while key[j] > pivot:
                j -= 1
            if i <= j:
                key[i], key[j] = key[j], key[i]
                order[i], order[j] = order[j], order[i]
                i += 1
                j -= 1
        if middle <= j:
            last = j
        elif middle >= i:
            first = i
        else:
            return
