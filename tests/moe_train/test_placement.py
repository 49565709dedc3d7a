"""Placements: every replica is placed, MRO is the paper's, `best` beats it where the theorem fails."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsys.moe_train import FailureModel, Placement, mro, place, plan_model, recovery, recovery_bound, segment_sizes
from llmsys.moe_train.methods import METHODS
from llmsys.moe_train.swaps import improve, repair
from tests.moe_train.brute import COUNTEREXAMPLES, all_placements, brute_recovery, small_replicas


@pytest.mark.parametrize("method", METHODS)
@given(case=small_replicas())
@settings(max_examples=40)
def test_every_method_places_every_replica(method, case):
    replicas, nodes, slots = case
    placed = place(replicas, nodes, slots, method)

    assert placed.columns.shape == (nodes, slots)
    assert placed.replicas().tolist() == replicas
    assert (placed.counts() > 0).tolist() == placed.holders().tolist()


@given(small_replicas())
def test_mro_puts_whole_groups_on_disjoint_segments(case):
    replicas, nodes, slots = case
    placed, (sizes, whole) = mro(replicas, nodes, slots), segment_sizes(replicas, nodes, slots)
    ranked = sorted(range(len(replicas)), key=lambda expert: (replicas[expert], expert))
    start = 0
    for group, size in enumerate(sizes):
        members = set(ranked[group * slots : (group + 1) * slots])
        for node in range(start, start + size):
            assert members <= set(placed.columns[node].tolist())
        start += size

    assert start <= nodes
    assert placed.optimal == whole


@given(small_replicas(most_nodes=5, most_slots=3, most_experts=5).filter(lambda case: case[1] * case[2] <= 10))
@settings(max_examples=60)
def test_mro_with_a_whole_last_segment_is_optimal_among_all_placements(case):
    """Nothing is claimed for a truncated last segment: there `best` and its bound are held against the same truth."""
    replicas, nodes, slots = case
    experts = len(replicas)
    literal = mro(replicas, nodes, slots)
    candidates = list(all_placements(replicas, nodes, slots))
    for k in range(1, nodes):
        truth = max(brute_recovery([(columns, experts)], nodes, k) for columns in candidates)
        best = place(replicas, nodes, slots, "best", {k: 1.0}, f=1)
        reached = recovery(best, k)
        bound = recovery_bound(replicas, nodes, slots, [k])[k]

        assert bound >= truth - 1e-12
        assert recovery(literal, k) <= reached + 1e-12 <= truth + 2e-12
        if literal.optimal:
            assert recovery(literal, k) == pytest.approx(truth, abs=1e-12)
        if best.optimal:
            assert reached == pytest.approx(truth, abs=1e-12)


@pytest.mark.parametrize(("nodes", "slots", "replicas", "left", "chance", "best"), COUNTEREXAMPLES)
def test_best_beats_mro_where_the_theorem_of_the_paper_fails(nodes, slots, replicas, left, chance, best):
    k = nodes - left
    literal, searched = mro(replicas, nodes, slots), place(replicas, nodes, slots, "best", {k: 1.0})

    assert not literal.optimal
    assert recovery(literal, k) == pytest.approx(chance)
    assert recovery(searched, k) == pytest.approx(best)
    assert best == max(
        brute_recovery([(columns, len(replicas))], nodes, k) for columns in all_placements(replicas, nodes, slots)
    )


def test_optimality_is_claimed_only_where_the_bound_is_attained():
    proven = place((2, 3, 3), 4, 2, "best", {2: 1.0})
    unknown = place((3, 3, 4), 5, 2, "best", {3: 1.0})

    assert (proven.optimal, proven.bound) == (True, {2: pytest.approx(5 / 6)})
    assert (unknown.optimal, unknown.bound) == (False, {3: pytest.approx(9 / 10)})


@given(st.lists(st.integers(0, 1000), min_size=2, max_size=12), st.integers(2, 8), st.integers(1, 6))
@settings(max_examples=80)
def test_fewer_failures_than_the_threshold_are_survived_for_certain(loads, nodes, slots):
    slots = max(slots, -(-2 * len(loads) // nodes))
    plan = plan_model([loads], nodes, slots, f=2, split="equal")

    assert plan.threshold == 2
    assert recovery(plan.placements, 1) == 1.0


def test_repair_gives_a_crowded_expert_another_node():
    crowded = mro((2, 2, 2), nodes=3, slots=2)
    mended = repair(crowded, least=2)

    assert crowded.holders().sum(axis=1).min() == 1
    assert mended.holders().sum(axis=1).tolist() == [2, 2, 2]
    assert mended.replicas().tolist() == [2, 2, 2]


@given(small_replicas(), st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_no_swap_of_two_replicas_improves_what_the_search_returns(case, seed):
    """The neighbourhood, by brute force: every pair of slots of different nodes."""
    replicas, nodes, slots = case
    rng = np.random.default_rng(seed)
    start = Placement(
        rng.permutation(np.repeat(np.arange(len(replicas)), replicas)).reshape(nodes, slots), len(replicas)
    )
    weights = {1: 0.6, 2: 0.4} if nodes > 2 else {1: 1.0}
    (found,) = improve([start], FailureModel.of_nodes(nodes, weights))

    def value(columns):
        return sum(w * brute_recovery([(columns, len(replicas))], nodes, k) for k, w in weights.items())

    reached = value(found.columns.tolist())
    assert reached >= value(start.columns.tolist()) - 1e-12
    flat = [(node, slot) for node in range(nodes) for slot in range(slots)]
    for (one, a), (other, b) in ((p, q) for p in flat for q in flat if p < q):
        columns = found.columns.copy()
        columns[one, a], columns[other, b] = columns[other, b], columns[one, a]
        assert value(columns.tolist()) <= reached + 1e-9


def test_replicas_that_do_not_fill_the_slots_are_refused():
    with pytest.raises(ValueError, match=r"sum to 3 \* 2"):
        place((2, 2, 1), 3, 2)


def test_an_unknown_method_is_refused_by_name():
    with pytest.raises(ValueError, match="'worst'; expected one of best, mro"):
        place((2, 2, 2), 3, 2, "worst")
