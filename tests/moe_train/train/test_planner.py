"""From what the living hold to columns and moves: sources hold what they send, and everyone ends with the plan."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsys.moe_train import PlanError, Unrecoverable
from llmsys.moe_train.train import ModelShape, Planner, RunConfig, find_transfer

EXPERTS = 4
MIXTURES = 2


def planner(**changes):
    shape = ModelShape(layers=MIXTURES, d_model=8, d_ff=8, heads=2, experts=EXPERTS)
    return Planner(RunConfig(model=shape, slots=2, **changes))


def after(holdings, moves):
    """What everyone holds when all moves are done."""
    found = {worker: [set(layer) for layer in layers] for worker, layers in holdings.items()}
    for move in moves:
        assert move.expert in holdings[move.source][move.layer], "a source sends what it does not hold"
        target = holdings.get(move.target, [set()] * MIXTURES)
        # a worker without a whole layer, interrupted while it joined, counts as empty
        assert not all(target) or move.expert not in target[move.layer], "fetched though there"
        found.setdefault(move.target, [set() for _ in range(MIXTURES)])[move.layer].add(move.expert)
    return found


holdings = st.dictionaries(
    st.integers(0, 9),
    st.lists(st.sets(st.integers(0, EXPERTS - 1)), min_size=MIXTURES, max_size=MIXTURES),
    min_size=3,
    max_size=7,
)


@given(held=holdings, data=st.data())
def test_after_the_moves_everyone_who_stays_holds_the_plan(held, data):
    leaving = data.draw(st.sets(st.sampled_from(sorted(held)), max_size=len(held) - 2))
    staying = sorted(held.keys() - leaving)
    plan = planner().plan(staying)
    known = [set().union(*(layers[mixture] for layers in held.values())) for mixture in range(MIXTURES)]
    complete = all(len(layer) == EXPERTS for layer in known)
    partial = any(any(layers) and not all(layers) for layers in held.values())
    try:
        found = find_transfer(plan, held, staying, state_bytes=10)
    except Unrecoverable:
        assert not complete or partial
        return

    ends = after({worker: [set(layer) for layer in layers] for worker, layers in held.items()}, found.moves)
    assert sorted(found.plan.node_ids) == staying
    for mixture, placement in enumerate(found.plan.placements):
        for place, worker in enumerate(found.plan.node_ids):
            assert set(placement.columns[place].tolist()) <= ends[worker][mixture]
    assert all(move.target in staying for move in found.moves)
    assert found.bytes == 10 * len(found.moves)


def test_a_leaving_worker_sends_only_what_nobody_else_holds():
    held = {0: [[0, 1], [0, 1]], 1: [[1, 2], [1, 2]], 2: [[3, 2], [3, 2]]}
    plan = planner().plan([0, 1])
    found = find_transfer(plan, held, [0, 1], state_bytes=1)

    assert {(move.layer, move.expert) for move in found.moves if move.source == 2} == {(0, 3), (1, 3)}


def test_an_expert_that_nobody_holds_is_named():
    held = {0: [[0, 1], [0, 1]], 1: [[1, 2], [1, 3]]}

    with pytest.raises(Unrecoverable) as caught:
        find_transfer(planner().plan([0, 1]), held, [0, 1], state_bytes=1)
    assert caught.value.lost == ((0, 3), (1, 2))


def test_nothing_moves_where_everyone_holds_its_column():
    chosen = planner()
    first = chosen.plan([3, 5, 8])
    held = {
        worker: [placement.columns[place].tolist() for placement in first.placements]
        for place, worker in enumerate(first.node_ids)
    }

    assert find_transfer(chosen.plan([3, 5, 8]), held, [3, 5, 8], state_bytes=1).moves == ()


def test_loads_are_an_average_over_the_window():
    chosen = planner(load_window=4)
    for _ in range(40):
        chosen.observe([[8, 0, 0, 0]] * MIXTURES)
    chosen.observe([[0, 8, 0, 0]] * MIXTURES)
    split = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])

    # 6 of 8 copies on the first worker: 6 / mean 4
    assert chosen.predicted_balance([split] * MIXTURES) == pytest.approx(1.5, abs=1e-3)
    assert chosen.plan([0, 1, 2]).placements[0].replicas()[0] == 3


def test_the_state_of_an_expert_counts_weights_and_two_moments():
    assert planner().state_bytes == 3 * 2 * 8 * 8 * 4
    assert planner(dtype="float64").state_bytes == 3 * 2 * 8 * 8 * 8


def test_too_few_slots_are_a_plan_error():
    with pytest.raises(PlanError):
        planner().plan([4])
