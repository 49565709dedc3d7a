"""The scheduler against brute force, its invariants, and the bounds that theory gives."""

import json
from itertools import permutations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsys.sgd_decode.plan import Node, Plan
from llmsys.sgd_decode.scheduler import Scheduler
from llmsys.sgd_decode.simulation import Workload, critical_path_tokens, lower_bound_s, simulate
from llmsys.sgd_decode.step_time import StepTime

RECORDS = (
    (Path(__file__).parents[2] / "fixtures" / "sgd-decode" / "plans.jsonl").read_text(encoding="utf-8").splitlines()
)
CPU = StepTime(0.9, 0.1)  # t(8) = 1.7 t(1)


@st.composite
def plans(draw, most=7):
    count = draw(st.integers(1, most))
    nodes = [
        Node(i, f"part {i}", tuple(sorted(draw(st.sets(st.integers(1, i - 1), max_size=3)))) if i > 1 else (), 3)
        for i in range(1, count + 1)
    ]
    parts = {node.id: draw(st.integers(1, 40)) for node in nodes}
    return Plan(tuple(nodes)), Workload(parts, [draw(st.integers(1, 6)) for _ in nodes])


def check(plan, work, schedule, slots, *, pipeline):
    """What any schedule must obey."""
    assert set(schedule.spans) == {node.id for node in plan.nodes}
    for node in plan.nodes:
        start, _ = schedule.spans[node.id]
        assert all(schedule.spans[need][1] <= start + 1e-9 for need in node.needs)
        assert pipeline or start >= schedule.plan_s - 1e-9
    for moment, _ in schedule.spans.values():
        running = sum(start <= moment + 1e-9 < end for start, end in schedule.spans.values())
        assert running + int(moment + 1e-9 < schedule.plan_s) <= slots


@given(plans(), st.integers(2, 5), st.booleans())
def test_no_part_starts_before_its_needs_and_slots_are_never_passed(drawn, slots, pipeline):
    plan, work = drawn
    schedule = simulate(plan, work, CPU, slots=slots, pipeline=pipeline)

    check(plan, work, schedule, slots, pipeline=pipeline)
    assert schedule.makespan_s >= lower_bound_s(plan, work, CPU, slots=slots) - 1e-9


@given(plans())
def test_with_one_token_a_second_and_room_for_all_the_plan_takes_its_critical_path(drawn):
    plan, work = drawn
    schedule = simulate(plan, work, StepTime(1.0, 0.0), slots=len(plan.nodes) + 1)

    assert schedule.makespan_s == pytest.approx(critical_path_tokens(plan, work))


def best_order(plan, work, slots):
    """The shortest fixed-time makespan over every order of starting parts, the plan being there already."""
    shortest = float("inf")
    for order in permutations(plan.nodes):
        ends, free, now = {}, slots, 0
        waiting, running = list(order), []
        while waiting or running:
            ready = [n for n in waiting if all(ends.get(need, 1 << 30) <= now for need in n.needs)]
            for node in ready[:free]:
                waiting.remove(node)
                running.append((now + work.parts[node.id], node.id))
                free -= 1
            running.sort()
            now, number = running.pop(0)
            ends[number] = now
            free += 1
        shortest = min(shortest, now)
    return shortest


@settings(max_examples=40)
@given(plans(most=6), st.integers(2, 4))
def test_the_rule_is_within_grahams_bound_of_the_optimum(drawn, slots):
    plan, work = drawn
    ours = run_rule(plan, work, slots)

    assert ours <= (2 - 1 / slots) * best_order(plan, work, slots) + 1e-9


def run_rule(plan, work, slots):
    """The makespan of the scheduler alone: fixed step time, all lines written at 0."""
    scheduler, now, running = Scheduler(lambda node: work.parts[node.id]), 0, []
    for node in plan.nodes:
        scheduler.add(node)
    while not scheduler.idle:
        running += [(now + work.parts[node.id], node.id) for node in scheduler.take(slots - len(running))]
        running.sort()
        now, number = running.pop(0)
        scheduler.finish(number)
    return now


def test_the_rule_is_on_average_within_five_percent_of_the_optimum():
    """Two hundred random graphs of up to seven parts on two and three slots, fixed seed."""
    import random

    draw, ratios = random.Random(7), []
    for _ in range(200):
        count, slots = draw.randint(4, 7), draw.randint(2, 3)
        nodes = [
            Node(i, "x", tuple(sorted(draw.sample(range(1, i), min(i - 1, draw.randint(0, 2))))))
            for i in range(1, count + 1)
        ]
        work = Workload({node.id: draw.randint(5, 60) for node in nodes}, [0] * count)
        plan = Plan(tuple(nodes))
        ratios.append(run_rule(plan, work, slots) / best_order(plan, work, slots))

    assert min(ratios) >= 1.0
    assert sum(ratios) / len(ratios) <= 1.05


@pytest.mark.parametrize("text", RECORDS)
def test_recorded_plans_pipelined_come_near_the_least_possible_time(text):
    record = json.loads(text)
    plan = Plan(tuple(Node(n["id"], n["title"], tuple(n["needs"]), n["level"]) for n in record["nodes"]))
    work = Workload({n["id"]: n["tokens"] for n in record["nodes"]}, [14] * len(record["nodes"]))
    piped, whole = (simulate(plan, work, CPU, slots=8, pipeline=pipeline) for pipeline in (True, False))

    assert piped.makespan_s <= whole.makespan_s + 1e-9
    assert piped.makespan_s >= lower_bound_s(plan, work, CPU, slots=8)


def test_a_step_time_is_recovered_from_its_own_points_and_never_negative():
    points = [(b, StepTime(0.03, 0.002).of(b)) for b in (1, 2, 4, 8, 16)]

    assert StepTime.fit(points).alpha_s == pytest.approx(0.03)
    assert StepTime.fit(points).beta_s == pytest.approx(0.002)
    assert StepTime.fit([(1, 0.01), (8, 0.2)]).alpha_s == 0.0
    assert StepTime.fit([(1, 0.2), (8, 0.1)]).beta_s == 0.0


def test_the_scheduler_refuses_what_cannot_be():
    scheduler = Scheduler(lambda node: 1.0)
    with pytest.raises(ValueError, match="expected earlier parts"):
        scheduler.add(Node(2, "x", (1,)))
    with pytest.raises(ValueError, match="not running"):
        scheduler.finish(1)
    with pytest.raises(ValueError, match="0 slots"):
        simulate(Plan((Node(1, "x"),)), Workload({1: 1}, [1]), CPU, slots=0)
    with pytest.raises(ValueError, match="two widths"):
        StepTime.fit([(1, 0.1)])
