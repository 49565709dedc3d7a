"""Shares of replicas: rows sum to one, only holders take part, and the busiest node is as idle as it can be."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsys.moe_train import Placement, balance, equal_split, node_loads, plan_model, split_model


@given(st.integers(2, 6), st.integers(1, 4), st.integers(0, 2**32 - 1))
@settings(max_examples=40)
def test_even_splits_share_among_holders_and_are_never_worse_than_equal_ones(nodes, layers, seed):
    rng = np.random.default_rng(seed)
    loads = rng.integers(0, 50, (layers, 4)) * (rng.random((layers, 4)) < 0.8)
    plan = plan_model(loads, nodes, 4)
    equal = split_model(plan.placements, plan.loads, "equal")
    for layer, split in enumerate(plan.splits):
        assert split.sum(axis=1) == pytest.approx(1.0)
        assert (split[~plan.placements[layer].holders()] == 0).all()
        assert node_loads(loads[layer], split).max() <= node_loads(loads[layer], equal[layer]).max() + 1e-6

    assert plan.balance() >= 1.0 - 1e-9


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=40)
def test_the_busiest_node_meets_the_bound_of_every_set_of_experts(seed):
    """Duality by brute force: the tokens of the experts that live within a set of nodes cannot leave it."""
    rng = np.random.default_rng(seed)
    columns = rng.integers(0, 4, (4, 2))
    columns[:2] = [[0, 1], [2, 3]]
    placement = Placement(columns, 4)
    loads = rng.integers(1, 100, (1, 4))
    (split,) = split_model([placement], loads)
    holders = placement.holders()
    bound = 0.0
    for mask in range(1, 16):
        inside = np.array([mask >> node & 1 for node in range(4)], dtype=bool)
        trapped = ~holders[:, ~inside].any(axis=1)
        bound = max(bound, float(loads[0, trapped].sum()) / inside.sum())

    assert node_loads(loads[0], split).max() == pytest.approx(bound, rel=1e-6)


def test_balance_adds_up_the_busiest_node_of_every_layer():
    loads = np.array([[10, 0], [4, 4]])
    splits = [np.eye(2), np.eye(2)]

    assert balance(loads, splits) == pytest.approx((10 + 4) / (5 + 4))
    assert balance(np.zeros((1, 2), np.int64), splits[:1]) == 1.0


def test_equal_splits_count_slots():
    split = equal_split(Placement(np.array([[0, 0], [0, 1]]), 2))

    assert split.tolist() == [[pytest.approx(2 / 3), pytest.approx(1 / 3)], [0, 1]]


def test_a_split_of_another_kind_or_shape_is_refused():
    placement = Placement(np.array([[0, 1]]), 2)

    with pytest.raises(ValueError, match="expected one of lp, equal"):
        split_model([placement], np.ones((1, 2), np.int64), "even")
    with pytest.raises(ValueError, match=r"expected \(1, 2\)"):
        split_model([placement], np.ones((1, 3), np.int64))
