"""How many replicas every expert gets: the invariants of the paper's rule, in integers, for any loads."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsys.moe_train import PlanError, allocate, allocate_greedily, usable_threshold


@st.composite
def clusters(draw):
    """(loads, nodes, slots, f) that can hold every expert."""
    loads = draw(st.lists(st.one_of(st.just(0), st.integers(0, 10), st.integers(0, 2**50)), min_size=1, max_size=40))
    nodes = draw(st.integers(1, 24))
    slots = draw(st.integers(-(-len(loads) // nodes), -(-len(loads) // nodes) + 8))
    return loads, nodes, slots, draw(st.integers(1, 5))


@given(clusters())
def test_slots_are_filled_the_threshold_is_kept_and_hotter_experts_get_no_fewer(cluster):
    loads, nodes, slots, f = cluster
    replicas = allocate(loads, nodes, slots, f)
    ranked = replicas[np.argsort(np.array(loads, dtype=np.int64), kind="stable")]

    assert replicas.dtype == np.int64
    assert replicas.sum() == nodes * slots
    assert replicas.min() >= usable_threshold(len(loads), nodes, slots, f)
    assert (np.diff(ranked) >= 0).all()


@given(clusters())
def test_the_rule_is_equation_one_of_the_paper(cluster):
    """Written down again with fractions, expert by expert."""
    loads, nodes, slots, f = cluster
    tokens = loads if any(loads) else [1] * len(loads)
    order = sorted(range(len(loads)), key=lambda expert: (loads[expert], expert))
    expected, given_away = {}, 0
    for place, expert in enumerate(order):
        rest = sum(tokens[other] for other in order[place:])
        share = tokens[expert] * (nodes * slots - given_away) // rest
        expected[expert] = max(share, min(f, nodes * slots // len(loads), nodes))
        given_away += expected[expert]

    assert allocate(loads, nodes, slots, f).tolist() == [expected[expert] for expert in range(len(loads))]


@given(clusters())
def test_greedy_replicas_fill_the_slots_and_leave_no_expert_out(cluster):
    loads, nodes, slots, _ = cluster
    replicas = allocate_greedily(loads, nodes, slots)

    assert replicas.sum() == nodes * slots
    assert replicas.min() >= 1


def test_loads_past_double_precision_are_divided_exactly():
    """A float would round both loads to one number and break the tie the wrong way round."""
    assert allocate([2**60 + 1, 2**60], nodes=1, slots=3, f=1).tolist() == [2, 1]
    assert allocate([2**60, 2**60 + 1], nodes=1, slots=3, f=1).tolist() == [1, 2]


def test_experts_without_any_tokens_share_equally():
    assert allocate([0, 0, 0], nodes=3, slots=2, f=1).tolist() == [2, 2, 2]


@pytest.mark.parametrize(("slots", "least"), [(1, 3), (2, 3)])
def test_too_few_slots_name_the_least_that_would_do(slots, least):
    with pytest.raises(PlanError, match=f"2 nodes with {slots} slots each cannot hold 5 experts; .*{least} slots"):
        allocate([1] * 5, nodes=2, slots=slots)


@pytest.mark.parametrize("loads", [[1, -1], [1.5, 2.0], [[1, 2]], [float("nan"), 1.0]])
def test_loads_that_are_no_vector_of_counts_are_refused(loads):
    with pytest.raises(ValueError, match="expected"):
        allocate(loads, nodes=4, slots=4)


def test_a_threshold_under_one_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        allocate([1, 2], nodes=4, slots=4, f=0)
