"""The dispatch table: every token is computed once, by a rank with its expert, and as few as possible move."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsys.moe_train import capacities, equal_split, mro, schedule


@st.composite
def tables(draw):
    """T [E, N] and shares [E, N] with zeros in both: empty experts, ranks without tokens, ranks without the expert."""
    experts, ranks = draw(st.integers(1, 6)), draw(st.integers(1, 7))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, draw(st.sampled_from([1, 3, 1000, 2**40])) + 1, (experts, ranks))
    tokens *= rng.random((experts, ranks)) < draw(st.sampled_from([0.2, 0.7, 1.0]))
    tokens *= rng.random((1, ranks)) < 0.8
    shares = rng.random((experts, ranks)) * (rng.random((experts, ranks)) < 0.6)
    shares[np.arange(experts), rng.integers(0, ranks, experts)] += 0.5
    return tokens, shares / shares.sum(axis=1, keepdims=True)


@given(tables())
def test_capacities_are_whole_sum_up_and_stay_within_one_of_the_share(table):
    tokens, split = table
    total = tokens.sum(axis=1)
    cap = capacities(total, split)

    assert cap.dtype == np.int64
    assert (cap.sum(axis=1) == total).all()
    assert (cap[split == 0] == 0).all()
    assert (np.abs(cap - total[:, None] * split) < 1 + 1e-3).all()


@given(tables())
def test_every_token_is_computed_once_where_there_is_room(table):
    tokens, split = table
    cap = capacities(tokens.sum(axis=1), split)
    moved = schedule(tokens, cap)
    kept = np.diagonal(moved, axis1=1, axis2=2)

    assert moved.dtype == np.int64
    assert (moved >= 0).all()
    assert (moved.sum(axis=2) == tokens).all()
    assert (moved.sum(axis=1) == cap).all()
    assert (moved.transpose(0, 2, 1)[split == 0] == 0).all()
    assert (kept == np.minimum(cap, tokens)).all()
    assert moved.sum() - kept.sum() == np.maximum(tokens - cap, 0).sum()


@given(tables())
def test_the_table_is_the_north_west_corner_written_as_a_loop(table):
    tokens, split = table
    cap = capacities(tokens.sum(axis=1), split)
    expected = np.zeros((*tokens.shape, tokens.shape[1]), np.int64)
    for e, (have, room) in enumerate(zip(tokens, cap, strict=True)):
        keep = np.minimum(have, room)
        expected[e][np.diag_indices(len(keep))] = keep
        surplus, deficit, i, j = (have - keep).tolist(), (room - keep).tolist(), 0, 0
        while i < len(keep) and j < len(keep):
            amount = min(surplus[i], deficit[j])
            expected[e, i, j] += amount
            surplus[i] -= amount
            deficit[j] -= amount
            if surplus[i] == 0:
                i += 1
            else:
                j += 1

    assert np.array_equal(schedule(tokens, cap), expected)


def test_equal_replicas_share_as_the_paper_writes():
    """p_e = t_e / r_e per replica: three replicas of expert 0, two of them on rank 0."""
    split = equal_split(mro([3, 1, 2], nodes=3, slots=2))
    cap = capacities(np.array([6, 5, 4]), split)

    assert cap.sum(axis=1).tolist() == [6, 5, 4]
    assert sorted(cap[2].tolist()) == [0, 2, 2]


def test_remainders_go_to_the_lower_rank_among_equals():
    third = np.full((1, 3), 1 / 3)

    assert capacities(np.array([4]), third).tolist() == [[2, 1, 1]]
    assert capacities(np.array([5]), third).tolist() == [[2, 2, 1]]


@pytest.mark.parametrize("bad", [np.array([[2, 1]]), np.array([[1, 1, 1]])])
def test_capacities_for_other_tokens_are_refused(bad):
    with pytest.raises(ValueError, match="expected"):
        schedule(np.array([[1, 1]]), bad)
