"""Migration: the fewest bytes of all mappings, nothing fetched twice or from the dead, senders evenly loaded."""

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from llmsys.moe_train import Unrecoverable, migrate, plan_model
from llmsys.moe_train.senders import choose_senders


@st.composite
def changes(draw):
    """(old plan, living ids, new plan, bytes per layer): some nodes die, some come, the loads drift."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    layers, experts = draw(st.integers(1, 3)), draw(st.integers(2, 6))
    before = draw(st.integers(2, 6))
    slots = max(2, -(-2 * experts // 2))
    old = plan_model(rng.integers(0, 100, (layers, experts)), before, slots, split="equal")
    stay = sorted(rng.permutation(before)[: draw(st.integers(1, before))].tolist())
    alive = [*stay, *range(before, before + draw(st.integers(0, 6 - len(stay))))]
    new = plan_model(rng.integers(0, 100, (layers, experts)), len(alive), slots, node_ids=alive, split="equal")
    return old, alive, new, rng.integers(1, 1000, layers).tolist()


def held_by(plan, node, layer):
    if node not in plan.node_ids:
        return set()
    return set(plan.placements[layer].columns[plan.node_ids.index(node)].tolist())


@given(changes())
@settings(max_examples=80)
def test_bytes_are_the_least_of_all_mappings_and_never_above_the_greedy_one(change):
    old, alive, new, sizes = change
    try:
        found = migrate(old, alive, new, state_bytes=sizes)
    except Unrecoverable:
        assume(False)

    def cost(order):
        return sum(
            sizes[layer] * len(set(new.placements[layer].columns[x].tolist()) - held_by(old, node, layer))
            for x, node in enumerate(order)
            for layer in range(len(sizes))
        )

    assert found.bytes == cost(found.mapping) == min(cost(order) for order in permutations(alive))
    assert found.bytes <= migrate(old, alive, new, state_bytes=sizes, mapping="greedy").bytes


@given(changes(), st.sampled_from(["optimal", "greedy"]))
@settings(max_examples=80)
def test_moves_bring_exactly_what_is_missing_from_living_owners(change, mapping):
    old, alive, new, sizes = change
    gone = {
        (layer, expert)
        for layer in range(len(sizes))
        for expert in range(old.experts)
        if not any(expert in held_by(old, node, layer) for node in alive)
    }
    if gone:
        with pytest.raises(Unrecoverable) as caught:
            migrate(old, alive, new, state_bytes=sizes, mapping=mapping)
        assert set(caught.value.lost) == gone
        return
    found = migrate(old, alive, new, state_bytes=sizes, mapping=mapping)
    applied = new.on(found.mapping)
    fetched = {node: set() for node in alive}
    for move in found.moves:
        assert move.expert in held_by(old, move.source, move.layer)
        assert move.source in alive
        assert move.bytes == sizes[move.layer]
        assert (move.layer, move.expert) not in fetched[move.target]
        fetched[move.target].add((move.layer, move.expert))

    assert sorted(found.mapping) == alive
    for node in alive:
        wanted = {(layer, expert) for layer in range(len(sizes)) for expert in held_by(applied, node, layer)}
        owned = {(layer, expert) for layer in range(len(sizes)) for expert in held_by(old, node, layer)}
        assert fetched[node] == wanted - owned


@given(st.integers(1, 6), st.integers(2, 4), st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_the_busiest_sender_of_equal_transfers_sends_as_little_as_any_choice_allows(jobs, nodes, seed):
    rng = np.random.default_rng(seed)
    owners = rng.random((jobs, nodes)) < 0.5
    owners[np.arange(jobs), rng.integers(0, nodes, jobs)] = True
    chosen = choose_senders(owners, np.full(jobs, 7))
    every = product(*(np.nonzero(row)[0].tolist() for row in owners))

    assert all(owners[job, sender] for job, sender in enumerate(chosen))
    assert np.bincount(chosen).max() == min(np.bincount(choice).max() for choice in every)


def test_longer_transfers_are_spread_first():
    owners = np.ones((3, 2), dtype=bool)

    assert sorted(np.bincount(choose_senders(owners, np.array([1, 2, 1])), weights=[1, 2, 1])) == [2, 2]


def test_an_unchanged_plan_moves_nothing_and_nobody():
    plan = plan_model([[5, 1, 9, 2]], nodes=4, slots=2, node_ids=[2, 3, 5, 8])
    found = migrate(plan, [2, 3, 5, 8], plan)

    assert (found.moves, found.mapping, found.max_send_bytes) == ((), (2, 3, 5, 8), 0)


def test_a_joiner_fetches_every_expert_of_its_column_once():
    """Four slots of two experts: the second copies on a node need no second transfer."""
    old = plan_model([[1, 1]], nodes=2, slots=4)
    new = plan_model([[1, 1]], nodes=3, slots=4, node_ids=[0, 1, 7])
    found = migrate(old, [0, 1, 7], new, state_bytes=10)

    assert [(move.target, move.bytes) for move in found.moves] == [(7, 10), (7, 10)]
    assert found.max_send_bytes == 10


def test_experts_without_a_living_copy_are_named():
    old = plan_model([[1, 1, 1, 1]], nodes=2, slots=2, f=1)
    lost = sorted(set(range(4)) - set(old.placements[0].columns[0].tolist()))
    new = plan_model([[1, 1, 1, 1]], nodes=1, slots=4)

    with pytest.raises(Unrecoverable, match=f"layer 0 expert {lost[0]}") as caught:
        migrate(old, [0], new)
    assert caught.value.lost == tuple((0, expert) for expert in lost)


def test_a_mapping_needs_a_node_for_every_column():
    plan = plan_model([[1, 1]], nodes=2, slots=2)

    with pytest.raises(ValueError, match="expected 2 different nodes"):
        migrate(plan, [0], plan)
