"""The simulator: arithmetic without failures, an event loop as oracle, renewal theory, and each policy's rules."""

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsys.errors import BadInput, UsageFault
from llmsys.moe_train.loads import zipf_loads
from llmsys.moe_train.sim import (
    PHASES,
    POLICIES,
    Change,
    CostModel,
    Pace,
    SimRequest,
    Tick,
    chosen_policies,
    draw_failures,
    read_cost,
    run_policies,
    simulate_run,
)
from llmsys.moe_train.sim.parallel import equal_balance
from llmsys.moe_train.sim.planned import PlannedPolicy

LOADS = zipf_loads(2, 8)
COST = CostModel(slots=4, ep_size=4)
QUIET = [Tick(0.0, tuple(range(8)), ())]


def policy(name, cost=COST):
    (found,) = chosen_policies(name, cost, LOADS)
    return found


class Stand:
    """A policy of eighths of seconds, which floats add exactly: any loss restarts, newcomers are taken in place."""

    name, note, join_wait_s = "stand", "", 1.0

    def start(self, alive):
        return Change(tuple(alive), "restart" if alive else "idle", 2.0, None)

    def change(self, layout, lost, alive):
        if not alive or lost & set(layout[:1]):
            return self.start(alive)
        return Change(tuple(alive), "reconfigure", 0.5)

    def pace(self, layout):
        return Pace(0.25 if len(layout) > 2 else 0.5, 3, 4, 0.375)


class Clock:
    """The Stand's rules again, as a loop over eighths of a second."""

    def __init__(self):
        self.present, self.layout, self.phase, self.begun = [], [], "idle", False
        self.steps = self.lost = self.since = 0
        self.left = self.into = self.saving = 0.0
        self.join_at = math.inf
        self.time = dict.fromkeys(PHASES, 0.0)

    def pause(self, phase, seconds):
        self.layout, self.phase, self.left = [*self.present], phase, seconds
        self.into, self.saving, self.join_at = 0.0, 0.0, math.inf

    def come_and_go(self, tick):
        gone, first = set(tick.left) & set(self.layout), self.layout[:1]
        here = [node for node in self.present if node not in tick.left] + list(tick.joined)
        working = [node for node in self.layout if node in here]
        self.present = working + [node for node in here if node not in working]
        if not self.layout:
            if self.present:
                self.pause("restart" if self.begun else "compute", 2.0)
                self.begun = True
        elif gone and (not self.present or gone & set(first)):
            self.steps, self.lost, self.since = self.steps - self.since, self.lost + self.since, 0
            self.pause("restart" if self.present else "idle", 2.0)
        elif gone:
            self.pause("reconfigure", 0.5)
        elif set(self.present) - set(self.layout):
            self.join_at = min(self.join_at, tick.t_s + 1.0)

    def take_newcomers(self, now):
        if self.join_at <= now:
            self.pause("reconfigure", 0.5)

    def work(self, dt):
        if self.phase in ("restart", "reconfigure") and self.left == 0:
            self.phase = "compute"
        doing = "ckpt" if self.phase == "compute" and self.since == 4 else self.phase
        self.time[doing] += dt
        if doing == "ckpt":
            self.saving += dt
            if self.saving == 0.375:
                self.since, self.saving = 0, 0.0
        elif doing == "compute":
            self.into += dt
            if self.into == (0.25 if len(self.layout) > 2 else 0.5):
                self.steps, self.since, self.into = self.steps + 1, self.since + 1, 0.0
        else:
            self.left -= dt


def by_the_clock(ticks, horizon, dt=0.125):
    clock = Clock()
    for eighth in range(round(horizon / dt)):
        clock.take_newcomers(eighth * dt)
        for tick in (tick for tick in ticks if tick.t_s == eighth * dt):
            clock.come_and_go(tick)
        clock.work(dt)
    return clock.steps, clock.lost, clock.time


@st.composite
def eighths(draw):
    """Ticks at eighths of seconds: up to four nodes come and go."""
    ticks, alive, born, now = [], [], 0, 0.0
    for _ in range(draw(st.integers(1, 8))):
        joined = tuple(range(born, born + draw(st.integers(0, 4 - len(alive)))))
        left = tuple(node for node in alive if draw(st.booleans()))
        born += len(joined)
        alive = [node for node in alive if node not in left] + list(joined)
        if joined or left:
            ticks.append(Tick(now, joined, left))
        now += draw(st.integers(1, 60)) / 8
    return ticks, now


@given(eighths())
@settings(max_examples=300)
def test_a_run_is_what_a_loop_over_eighths_of_seconds_finds(trace):
    ticks, horizon = trace
    run = simulate_run(Stand(), ticks, horizon)
    steps, lost, time = by_the_clock(ticks, horizon)

    assert (run.steps, run.lost_steps, run.samples) == (steps, lost, 3 * steps)
    assert run.breakdown == pytest.approx(time, abs=1e-6)


@pytest.mark.parametrize("name", POLICIES)
def test_without_failures_a_run_is_arithmetic(name):
    """Steps and checkpoints alternate; nothing else takes time."""
    chosen = policy(name)
    run = simulate_run(chosen, QUIET, 10_000.0)
    layout = chosen.start(list(range(8))).layout
    pace = chosen.pace(layout)
    cycles, rest = divmod(10_000.0, pace.ckpt_every * pace.step_s + pace.ckpt_s)

    assert run.steps == cycles * pace.ckpt_every + min(rest // pace.step_s, pace.ckpt_every)
    assert run.samples == 40 * run.steps
    assert (run.restarts, run.reconfigures, run.lost_steps, run.breakdown["idle"]) == (0, 0, 0, 0.0)
    assert sum(run.breakdown.values()) == pytest.approx(10_000.0)


@pytest.mark.parametrize("name", POLICIES)
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=15)
def test_no_policy_beats_the_ideal_one_and_all_time_is_accounted_for(name, seed):
    ticks = draw_failures(10, 400.0, 6_000.0, replace_after_s=900.0, seed=seed)
    run, ideal = (simulate_run(policy(one), ticks, 6_000.0) for one in (name, "ideal"))

    assert 0 <= run.samples <= ideal.samples
    assert run.samples == 40 * run.steps
    assert sum(run.breakdown.values()) == pytest.approx(6_000.0)
    assert min(run.breakdown.values()) >= -1e-6


def test_memoryless_failures_and_restarts_follow_the_renewal_formula():
    """Steps per failure: Σ_j P(X ≥ R + j s) = e^{-R/M} q / (1 − q), q = e^{-s/M}; 30 trials, three standard errors."""
    cost = CostModel(slots=4, ep_size=4, restart_s=20.0, ckpt_every=1, ckpt_s=0.0, batch=1, sample_s=40.0)
    step_s = policy("ds", cost).pace((0, 1, 2, 3)).step_s
    horizon, mtbf = 200_000.0, 60.0
    steps = []
    for seed in range(30):
        ticks = draw_failures(4, mtbf, horizon, replace_after_s=0.0, seed=seed)
        steps.append(simulate_run(policy("ds", cost), ticks, horizon).steps)
    q = math.exp(-step_s / mtbf)
    expected = horizon / mtbf * math.exp(-20.0 / mtbf) * q / (1 - q)

    assert abs(np.mean(steps) - expected) < 3 * np.std(steps, ddof=1) / math.sqrt(len(steps))


def test_a_full_restart_loses_what_the_last_checkpoint_does_not_hold():
    cost = CostModel(
        sample_s=0.1, step_fixed_s=0.0, batch=8, ckpt_every=10, ckpt_s=1.0, restart_s=5.0, ep_size=4, slots=4
    )
    pace = policy("ds", cost).pace(tuple(range(8)))
    # two checkpoints are whole, three and a half steps follow
    at = 2 * (10 * pace.step_s + 1.0) + 3.5 * pace.step_s
    run = simulate_run(policy("ds", cost), [*QUIET, Tick(at, (), (0,))], at + 5.0)

    assert (run.steps, run.lost_steps, run.restarts) == (20, 3, 1)
    assert run.breakdown["restart"] == pytest.approx(5.0)


def test_lazarus_uses_every_survivor_and_plain_expert_parallelism_whole_groups():
    lazarus, plain = policy("lazarus"), policy("ds")
    alive = [node for node in range(8) if node != 3]

    assert sorted(lazarus.change(tuple(range(8)), frozenset({3}), alive).layout) == alive
    assert len(plain.change(tuple(range(8)), frozenset({3}), alive).layout) == 4


def test_fewer_losses_than_the_threshold_never_restart_a_planned_run():
    chosen = policy("best")
    for node in range(8):
        alive = [other for other in range(8) if other != node]
        assert chosen.change(tuple(range(8)), frozenset({node}), alive).kind == "reconfigure"


def test_a_planned_run_restarts_exactly_when_an_expert_is_lost():
    """Every pair of failures against the columns of the plan that the trainer would use."""
    from itertools import combinations

    from llmsys.moe_train import plan_model

    chosen = policy("lazarus")
    plan = plan_model(LOADS, 8, COST.slots, method="mro")
    for lost in combinations(range(8), 2):
        alive = [node for node in range(8) if node not in lost]
        whole = all(
            {int(expert) for node in alive for expert in layer.columns[node]} == set(range(8))
            for layer in plan.placements
        )
        change = chosen.change(tuple(range(8)), frozenset(lost), alive)
        assert change.kind == ("reconfigure" if whole else "restart")
        assert change.rollback == (0 if whole else None)


def test_nodes_that_cannot_hold_every_expert_wait_for_more():
    chosen = policy("best")

    assert chosen.start([0]).kind == "idle"
    assert chosen.change((0, 1, 2), frozenset({1, 2}), [0]).layout == ()
    assert chosen.start([0, 1]).kind == "restart"


def test_the_best_mapping_never_pauses_longer_than_its_bytes_take():
    optimal, greedy = (
        PlannedPolicy("best", "", COST, LOADS, method="mro", mapping=mapping) for mapping in ("optimal", "greedy")
    )
    for node in range(8):
        alive = [other for other in range(8) if other != node]
        found = [one.change(tuple(range(8)), frozenset({node}), alive) for one in (optimal, greedy)]
        assert all(change.pause_s >= 30.0 for change in found)
        assert sorted(found[0].layout) == sorted(found[1].layout) == alive


def test_newcomers_wait_to_come_in_batches():
    cost = msgspec.structs.replace(COST, join_wait_s=100.0)
    ticks = [*QUIET, Tick(10.0, (8,), ()), Tick(60.0, (9,), ())]
    run = simulate_run(policy("best", cost), ticks, 1000.0)

    assert run.reconfigures == 1
    assert policy("best", cost).change(tuple(range(8)), frozenset(), list(range(10))).kind == "reconfigure"


def test_spares_replace_the_lost_without_waiting():
    ticks = [Tick(0.0, tuple(range(10)), ()), Tick(50.0, (), (1,))]
    run = simulate_run(policy("best"), ticks, 500.0, most=8)

    assert run.timeline[-1][1] == 8


def test_equal_replicas_wait_for_the_rank_with_the_hottest_experts():
    loads = np.array([[4, 0, 0, 0, 2, 2, 0, 0]])

    assert equal_balance(loads, 4) == pytest.approx(4 / 2)
    assert equal_balance(loads, 1) == 1.0
    assert equal_balance(np.zeros((1, 8), np.int64), 4) == 1.0


def test_an_in_place_system_restarts_only_when_a_rank_has_no_holder():
    chosen = policy("ds-ft")
    layout = tuple(range(8))
    one = chosen.change(layout, frozenset({0}), [1, 2, 3, 4, 5, 6, 7])
    both = chosen.change(layout, frozenset({0, 4}), [1, 2, 3, 5, 6, 7])

    assert (one.kind, both.kind) == ("reconfigure", "restart")
    # rank 0 goes on where it lived: on node 4
    assert one.layout[0] == 4


def test_a_replica_group_that_broke_is_whole_again_when_nodes_come():
    chosen = policy("torchft")
    broken = chosen.change(tuple(range(8)), frozenset({5}), [0, 1, 2, 3, 4, 6, 7])
    healed = chosen.change(broken.layout, frozenset(), [0, 1, 2, 3, 4, 6, 7, 8])

    assert broken.layout == (0, 1, 2, 3)
    assert healed.layout == (0, 1, 2, 3, 4, 6, 7, 8)
    assert chosen.change((0, 1, 2, 3), frozenset({0}), [1, 2, 3]).kind == "idle"


def test_memory_copies_survive_unless_both_of_a_pair_die():
    chosen = policy("gemini-like")
    spare = [2, 3, 4, 5, 6, 7, 8, 9]

    assert chosen.change(tuple(range(8)), frozenset({1}), [0, *spare]).rollback == 0
    assert chosen.change(tuple(range(8)), frozenset({0, 1}), spare).rollback is None


def test_neighbours_in_the_ring_back_each_other_up():
    chosen = policy("bamboo-like")

    assert chosen.change(tuple(range(8)), frozenset({0, 2}), [1, 3, 4, 5, 6, 7]).kind == "reconfigure"
    assert chosen.change(tuple(range(8)), frozenset({0, 7}), [1, 2, 3, 4, 5, 6]).kind == "restart"


def test_every_model_of_another_system_says_that_it_is_one():
    for name in POLICIES:
        note = policy(name).note
        assert note
        if name.endswith("-like"):
            assert note.startswith("a model of ")
            assert "from its paper" in note


@pytest.mark.parametrize("names", ["lazarus,", "lazarus,lazarus", "deepspeed"])
def test_policies_that_are_none_are_usage_faults(names):
    with pytest.raises(UsageFault, match="expected all, or different ones"):
        chosen_policies(names, COST, LOADS)


@pytest.mark.parametrize("text", ["[]", '{"sample_s":0}', '{"sample":1}', '{"ckpt_every":{"ds":0}}', "{"])
def test_costs_that_are_none_are_bad_input(tmp_path, text):
    path = tmp_path / "cost.json"
    path.write_text(text)

    with pytest.raises(BadInput, match="expected an object as"):
        read_cost(path)


def test_costs_of_a_file_stand_over_those_of_the_model(tmp_path):
    path = tmp_path / "cost.json"
    path.write_text('{"sample_s": 0.5, "restart_s": {"ds": 9, "*": 7}}')
    cost = read_cost(path, "gpt-s")

    assert (cost.sample_s, cost.ep_size, cost.expert_mb) == (0.5, 2, 63.0)
    assert [policy(name, cost).restart_s for name in ("ds", "ds-ft")] == [9, 7]


def test_intervals_narrow_with_trials_and_one_trial_has_none():
    few, many, one = (
        next(run_policies([policy("ds")], SimRequest(mtbf_s=500.0, horizon_s=5000.0, trials=trials))).summary
        for trials in (4, 64, 1)
    )

    assert one.samples_interval is None
    assert few.samples_interval[0] <= few.samples <= few.samples_interval[1]
    assert many.samples_interval[1] - many.samples_interval[0] < few.samples_interval[1] - few.samples_interval[0]
    assert sum(many.breakdown.values()) == pytest.approx(5000.0)
