"""Marginals and pivotal sampling against their definitions. Statistical tests state their false-alarm rate."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsys.al_sample import bernoulli, marginals, pivotal, settle, tree_order

SIX_SIGMA = 6.0  # two-sided tail of a normal below 2e-9; times 60 comparisons, below 1e-6


def settled_by_hand(p, coins):
    """The recursion as the paper writes it, coins taken in the order of meetings."""
    p, kept, coins = list(p), [False] * len(p), iter(coins)

    def meet(low, high):
        if high - low == 1:
            return low
        middle = (low + high) // 2
        i, j = meet(low, middle), meet(middle, high)
        s, coin = p[i] + p[j], next(coins)
        if s <= 1:
            winner = j if coin < p[j] / s else i
            p[winner] = s
            return winner
        stays, other = (i, j) if coin < (1 - p[j]) / (2 - s) else (j, i)
        kept[stays], p[other] = True, s - 1
        return other

    last = meet(0, len(p))
    kept[last] = next(coins) < p[last]
    return kept


@given(st.lists(st.just(0.0) | st.floats(1e-6, 1e6), min_size=1, max_size=40), st.integers(0, 40))
def test_marginals_sum_to_k_and_go_with_the_scores(scores, k):
    scores = np.array(scores)
    p = marginals(scores, k)
    free = (p > 0) & (p < 1)

    assert (p >= 0).all()
    assert (p <= 1).all()
    assert (p[scores == 0] == 0).all()
    assert p.sum() == pytest.approx(min(k, np.count_nonzero(scores)), rel=1e-9)
    if free.any():
        factor = p[free] / scores[free]
        assert np.allclose(factor, factor[0], rtol=1e-6)
        assert (factor[0] * scores[p == 1] >= 1 - 1e-6).all()


def test_marginals_refuse_a_negative_score():
    with pytest.raises(ValueError, match="at least 0"):
        marginals(np.array([1.0, -1.0]), 1)


@given(st.lists(st.floats(0.001, 0.999), min_size=1, max_size=33), st.integers(0, 2**31))
def test_the_compiled_tournament_is_the_recursion_by_hand(p, seed):
    coins = np.random.default_rng(seed).random(len(p))
    p = np.array(p)
    fraction = p.sum() % 1
    if min(fraction, 1 - fraction) < 1e-6:
        return

    assert settle(p, coins).tolist() == settled_by_hand(p, coins)


def test_pivotal_always_keeps_exactly_k_points_and_the_certain_ones():
    rng = np.random.default_rng(0)
    for n, k in [(5, 1), (40, 7), (200, 199), (333, 50)]:
        scores = rng.pareto(1.0, n)
        p = marginals(scores, k)
        kept = pivotal(p, rng.standard_normal((n, 3)).astype(np.float32), rng)

        assert len(kept) == k
        assert (np.diff(kept) > 0).all()
        assert set(np.flatnonzero(p == 1)) <= set(kept)


@pytest.mark.parametrize("tree", [False, True])
def test_pivotal_keeps_every_point_with_its_marginal(tree):
    """20000 draws, 20 points, z-test at six sigma: false alarms below 1e-6."""
    rng = np.random.default_rng(3)
    p = marginals(rng.pareto(1.5, 20) + 0.05, 6)
    places = rng.standard_normal((20, 2)).astype(np.float32) if tree else None
    counts = np.zeros(20)
    for _ in range(20_000):
        counts[pivotal(p, places, rng)] += 1
    error = np.abs(counts / 20_000 - p)

    assert (error <= SIX_SIGMA * np.sqrt(p * (1 - p) / 20_000) + 1e-12).all()


def test_siblings_of_the_tree_are_chosen_together_less_often_than_by_chance():
    """Pairs at one place with p = 0.4: never both. Nothing random is asserted."""
    rng = np.random.default_rng(4)
    places = np.repeat(rng.standard_normal((8, 2)) * 100, 2, axis=0).astype(np.float32)
    p = np.full(16, 0.4)
    p[:2] = 0.2
    for _ in range(200):
        kept = set(pivotal(p, places, rng).tolist())
        assert all(not {2 * i, 2 * i + 1} <= kept for i in range(8))


def test_a_tree_order_is_a_permutation_that_puts_clusters_together():
    rng = np.random.default_rng(5)
    cluster = rng.permutation(np.repeat([0, 1], 64))
    places = (rng.standard_normal((128, 3)) + 50 * cluster[:, None]).astype(np.float32)
    order = tree_order(places, 1)

    assert sorted(order.tolist()) == list(range(128))
    assert len(set(cluster[order[:64]])) == 1


def test_a_tree_of_equal_points_ends():
    assert sorted(tree_order(np.ones((1000, 4), np.float32), 0).tolist()) == list(range(1000))


def test_coins_keep_the_certain_and_never_the_impossible():
    kept = bernoulli(np.array([1.0, 0.0, 1.0]), np.random.default_rng(0))

    assert kept.tolist() == [0, 2]


def test_chances_and_coins_must_fit():
    with pytest.raises(ValueError, match="equal shapes"):
        settle(np.array([0.5]), np.array([0.5, 0.5]))
