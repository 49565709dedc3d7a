"""The chance of surviving k failures: closed form, enumeration and sampling agree with brute force."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsys.moe_train import (
    FailureModel,
    Placement,
    chances,
    failure_weights,
    mro,
    mro_recovery,
    plan_model,
    recovery,
    segment_sizes,
    spread,
)
from llmsys.moe_train import recovery as recovery_function
from llmsys.moe_train.sampling import failed_sets, interval
from tests.moe_train.brute import brute_recovery, small_replicas


@given(small_replicas())
def test_the_closed_form_of_mro_is_what_enumeration_finds(case):
    replicas, nodes, slots = case
    sizes, _ = segment_sizes(replicas, nodes, slots)
    columns = mro(replicas, nodes, slots).columns.tolist()
    for k in range(nodes):
        assert mro_recovery(sizes, nodes, k) == pytest.approx(brute_recovery([(columns, len(replicas))], nodes, k))


@given(st.lists(small_replicas(most_nodes=5), min_size=1, max_size=3), st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_layers_recover_together_on_the_same_survivors(cases, seed):
    """Against enumeration over shared node sets; a product over layers would be wrong."""
    rng = np.random.default_rng(seed)
    nodes = cases[0][1]
    layers = [
        Placement(rng.permutation(np.resize(np.arange(experts), nodes * 3)).reshape(nodes, 3), experts)
        for experts in (min(len(replicas), nodes * 3) for replicas, _, _ in cases)
    ]
    plain = [(layer.columns.tolist(), layer.experts) for layer in layers]
    for k in range(nodes + 1):
        assert recovery(layers, k) == pytest.approx(brute_recovery(plain, nodes, k))


def test_shuffled_layers_recover_less_often_than_aligned_ones():
    """Twelve layers in one node order lose together; in twelve orders some layer is nearly always lost."""
    rng = np.random.default_rng(1)
    loads = rng.zipf(1.6, (12, 16)).clip(max=500)
    aligned = plan_model(loads, 10, 6, method="mro", split="equal").placements
    shuffled = [
        Placement(layer.columns[rng.permutation(10)], layer.experts, optimal=layer.optimal) for layer in aligned
    ]

    assert recovery(aligned, 2) > recovery(shuffled, 2)
    assert all(
        recovery(one, 2) == pytest.approx(recovery(other, 2)) for one, other in zip(aligned, shuffled, strict=True)
    )


def test_losing_sets_counted_one_by_one_agree_with_the_closed_form():
    """24 nodes are past the table of all sets; a second, shifted layer makes the sets overlap."""
    layer = mro([2] * 24, nodes=24, slots=2)
    shifted = Placement(np.roll(layer.columns, 1, axis=0), layer.experts)
    pairs = {frozenset((2 * i, 2 * i + 1)) for i in range(12)} | {
        frozenset((2 * i + 1, (2 * i + 2) % 24)) for i in range(12)
    }
    for k in (2, 3):
        lost = sum(any(pair <= set(failed) for pair in pairs) for failed in combinations(range(24), k))
        found = chances([layer, shifted], [k])[k]

        assert found.exact
        assert found.value == pytest.approx(1 - lost / math.comb(24, k))


def test_sampling_brackets_the_exact_chance():
    """48 nodes, 8 failures: too many sets to count. False-alarm rate of the 95 % interval aside, the sampled value lies
    within six standard errors of the closed form (1e-8)."""
    layer = mro([2] * 48, nodes=48, slots=2)
    shifted = Placement(np.roll(layer.columns, 24, axis=0), layer.experts)
    exact = chances([layer], [8])[8]
    tilted = FailureModel(tuple(range(48)), (1.0,) * 47 + (1.0 + 1e-9,), {8: 1.0})
    sampled = chances([layer, shifted], [8], tilted)[8]

    assert exact.exact
    assert not sampled.exact
    assert sampled.low < sampled.value < sampled.high
    assert abs(sampled.value - exact.value) < 6 * math.sqrt(exact.value * (1 - exact.value) / 40_000)


def test_survival_of_simulated_failures_lies_in_the_interval_of_the_chance():
    """20 000 random failures of a searched plan within a 99.9999 % interval: false alarms at 1e-6."""
    loads = np.random.default_rng(3).zipf(1.5, (4, 8)).clip(max=400)
    plan = plan_model(loads, 10, 4)
    rng = np.random.default_rng(4)
    holders = np.concatenate([placement.holders() for placement in plan.placements])
    for k in (2, 3, 4):
        survived = 0
        for _ in range(20_000):
            alive = np.ones(10, dtype=bool)
            alive[rng.permutation(10)[:k]] = False
            survived += bool(holders[:, alive].any(axis=1).all())
        low, high = interval(survived, 20_000, 1 - 1e-6)

        assert low <= recovery(plan.placements, k) <= high


def test_a_rack_fails_as_one():
    layer = spread([2, 2, 2], nodes=3, slots=2)
    together = FailureModel((0, 0, 1), (1.0, 1.0), {1: 1.0})

    assert recovery(layer, 1) == 1.0
    assert recovery(layer, 1, together) == pytest.approx(brute_racks(layer, together.domain_of))


def brute_racks(layer, domain_of):
    survived = 0
    for failed in set(domain_of):
        alive = [node for node, domain in enumerate(domain_of) if domain != failed]
        survived += {int(expert) for node in alive for expert in layer.columns[node]} == set(range(layer.experts))
    return survived / len(set(domain_of))


@given(st.lists(st.floats(0.1, 10.0), min_size=3, max_size=6), st.integers(0, 2**32 - 1))
def test_hazards_weigh_the_sets_of_failures(hazards, seed):
    nodes = len(hazards)
    columns = np.random.default_rng(seed).integers(0, 3, (nodes, 2))
    columns[0] = (0, 1)
    columns[1] = (1, 2)
    layer = Placement(columns, 3)
    world = FailureModel(tuple(range(nodes)), tuple(hazards), {2: 1.0})
    weight = lost = 0.0
    for failed in combinations(range(nodes), 2):
        product = hazards[failed[0]] * hazards[failed[1]]
        alive = [node for node in range(nodes) if node not in failed]
        weight += product
        lost += product * ({int(e) for node in alive for e in columns[node]} != {0, 1, 2})

    assert recovery(layer, 2, world) == pytest.approx(1 - lost / weight, abs=1e-9)


def test_failed_sets_are_drawn_in_proportion_to_their_hazards():
    """50 000 draws of two of four domains; each count within six standard errors of its expectation (1e-8)."""
    world = FailureModel((0, 1, 2, 3), (1.0, 2.0, 3.0, 4.0), {2: 1.0})
    drawn = failed_sets(world, 2, 50_000, np.random.default_rng(0))
    total = sum(a * b for a, b in combinations(world.hazards, 2))

    assert (drawn.sum(axis=1) == 2).all()
    for one, other in combinations(range(4), 2):
        chance = world.hazards[one] * world.hazards[other] / total
        count = int((drawn[:, one] & drawn[:, other]).sum())
        assert abs(count - 50_000 * chance) < 6 * math.sqrt(50_000 * chance * (1 - chance))


def test_weights_are_a_binomial_given_a_failure():
    weights = failure_weights(10, 0.2)
    expected = {k: math.comb(10, k) * 0.2**k * 0.8 ** (10 - k) for k in range(1, 6)}

    assert sum(weights.values()) == pytest.approx(1.0)
    assert weights == pytest.approx({k: value / sum(expected.values()) for k, value in expected.items()})
    assert set(failure_weights(3, 0.5)) == {1, 2}


@pytest.mark.parametrize("k", [-1, 4])
def test_impossible_numbers_of_failures_are_refused(k):
    with pytest.raises(ValueError, match="expected 0 to 3 failures"):
        recovery_function(mro([2, 2, 2], 3, 2), k)
