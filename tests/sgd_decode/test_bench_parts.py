"""The arithmetic of `bench`: equal tokens, paired seconds, categories, optimum and bound."""

from itertools import permutations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsys.sgd_decode import (
    DecodeSettings,
    Match,
    Node,
    Plan,
    Rule,
    ScriptBackend,
    StepTime,
    Workload,
    bench_plans,
    bench_routers,
    critical_path_tokens,
    dependence,
    lower_bound_s,
    optimum_s,
    read_plans,
    simulate,
)
from llmsys.sgd_decode.mode_speed import EngineRow, bench_modes, bench_peer, plain_seconds, speeds
from tests.sgd_decode.stand_ins import question
from tests.sgd_decode.test_plan_stream import plans

FIXTURES = Path(__file__).parents[2] / "fixtures" / "sgd-decode"
PLAN = "1. A | needs - | level 1\n2. B | needs - | level 1\n3. C | needs 1,2 | level 1\nend"
LAW = StepTime(1.0, 0.25)


def row(mode="sgd", *, category="", total_s=1.0, ar_s=2.0, tokens=10, parts=3, **fields):
    figures = {"plan_tokens": 5, "bound": 0.5, "prefill": 10, "prefill_saved": 30} | fields
    return EngineRow(mode, "q", category, parts, answer_tokens=tokens, total_s=total_s, ar_s=ar_s, **figures)


def test_speed_ups_are_of_all_seconds_and_not_the_mean_of_ratios():
    (found,) = speeds([row(total_s=1.0, ar_s=1.0), row(total_s=9.0, ar_s=19.0)])

    assert found.speed_up == 2.0
    assert found.mean_s == 5.0
    assert found.tok_s == 2.0
    assert found.plan_share == pytest.approx(1 / 3)
    assert found.prefill_saved == 0.75


def test_questions_in_one_piece_do_not_count_as_split():
    (found,) = speeds([row(total_s=1.0, ar_s=3.0), row(parts=0, total_s=1.0, ar_s=1.0, bound=None)])
    (plain,) = speeds([row(parts=0, bound=None)])

    assert (found.split, found.split_speed_up, found.speed_up) == (1, 3.0, 2.0)
    assert (plain.split_speed_up, plain.of_bound) == (None, None)


def test_categories_stand_below_the_whole_where_there_are_several():
    rows = [row(category="maths"), row(category="maths"), row(category="roleplay"), row("sot", category="maths")]

    assert [(found.mode, found.category, found.questions) for found in speeds(rows)] == [
        *(("sgd", "", 3), ("sot", "", 1)),
        *(("sgd", "maths", 2), ("sot", "maths", 1), ("sgd", "roleplay", 1)),
    ]
    assert [found.category for found in speeds(rows[:2])] == [""]


@given(st.integers(1, 50))
def test_the_plain_answer_has_just_as_many_tokens(tokens):
    assert plain_seconds(ScriptBackend([Rule(tokens=60)], step_time=LAW), question(0), tokens) == pytest.approx(
        tokens * LAW.of(1)
    )


def test_a_plain_answer_that_ends_early_is_no_comparison():
    with pytest.raises(RuntimeError, match="expected 50"):
        plain_seconds(ScriptBackend([Rule(tokens=20)], step_time=LAW), question(0), 50)


def test_every_mode_has_a_backend_of_its_own():
    opened = []

    def open_one():
        rules = [Rule(Match("Write an outline"), PLAN), Rule(Match("about part"), tokens=20), Rule(tokens=500)]
        opened.append(ScriptBackend(rules, step_time=LAW))
        return opened[-1]

    def chosen(mode, step_time):
        return DecodeSettings(mode=mode, step_time=step_time, min_gain=0.0)

    rows = bench_modes(open_one, [question(0), question(1)], ["sgd", "ar"], chosen)

    assert len(opened) == 2
    assert [found.mode for found in rows] == ["sgd", "sgd", "ar", "ar"]
    assert all(found.ar_s == pytest.approx(found.answer_tokens * LAW.of(1)) for found in rows)
    assert all(found.speed_up == pytest.approx(1.0, abs=0.01) for found in rows if found.mode == "ar")


def test_a_peer_is_compared_by_its_rate():
    found = bench_peer("peer", lambda messages, tokens: tokens, [question(0)], 10, ours_tok_s=100.0)

    assert found.tokens == 10
    assert found.ours_ratio == pytest.approx(100.0 / found.tok_s)


def brute_force(plan, work, law, slots):
    """The best of list schedules over all orders of priority: exact where no part is better left waiting."""

    def play(order):
        rank = {number: at for at, number in enumerate(order)}
        written, to_write, left, done, now = [], list(zip(plan.nodes, work.lines, strict=True)), {}, set(), 0.0
        line_left = to_write[0][1]
        while to_write or left or len(done) < len(plan.nodes):
            ready = [n for n in written if n.id not in done and n.id not in left and done.issuperset(n.needs)]
            for node in sorted(ready, key=lambda n: rank[n.id])[: max(0, slots - len(left) - bool(to_write))]:
                left[node.id] = work.parts[node.id]
            now += law.of(len(left) + bool(to_write))
            for number in list(left):
                left[number] -= 1
                if not left[number]:
                    del left[number]
                    done.add(number)
            if to_write:
                line_left -= 1
                if not line_left:
                    written.append(to_write.pop(0)[0])
                    line_left = to_write[0][1] if to_write else 0
        return now

    return min(play(order) for order in permutations(range(1, len(plan.nodes) + 1)))


@given(plans(most=4), st.data())
@settings(max_examples=25)
def test_the_optimum_is_never_above_what_trying_every_order_finds(plan, data):
    """Played token by token by another program; the search may also leave a slot empty, and so be better."""
    work = Workload(
        {node.id: data.draw(st.integers(1, 6)) for node in plan.nodes},
        [data.draw(st.integers(1, 3)) for _ in plan.nodes],
    )
    slots = data.draw(st.integers(2, 4))
    best = optimum_s(plan, work, LAW, slots=slots)

    assert best <= brute_force(plan, work, LAW, slots) + 1e-9
    assert best >= lower_bound_s(plan, work, LAW, slots=slots) - 1e-9
    assert simulate(plan, work, LAW, slots=slots).makespan_s >= best - 1e-9


def test_the_critical_path_counts_lines_and_then_a_chain():
    plan = Plan((Node(1, "a"), Node(2, "b"), Node(3, "c", (1,))))
    work = Workload({1: 10, 2: 50, 3: 5}, [3, 3, 3])

    assert critical_path_tokens(plan, work) == 3 + 3 + 50
    assert critical_path_tokens(Plan(), Workload({}, [])) == 0


def test_an_optimum_of_many_parts_is_not_searched_for():
    many = Plan(tuple(Node(number, "a") for number in range(1, 10)))

    with pytest.raises(ValueError, match="at most 8"):
        optimum_s(many, Workload(dict.fromkeys(range(1, 10), 1), [1] * 9), LAW, slots=2)


@given(plans(most=6))
@settings(max_examples=20)
def test_dependence_is_all_or_nothing_on_any_plan(plan):
    found = dependence([plan], ("sgd", "sgd-v1", "sot"))
    needed = any(node.needs for node in plan.nodes)

    assert found["sgd"] == found["sgd-v1"] == 1.0
    assert found["sot"] == (0.0 if needed else 1.0)


def test_recorded_plans_get_the_same_figures_every_time():
    records = read_plans(FIXTURES / "plans.jsonl")[:3]

    assert bench_plans(records, LAW, prefill_s=0.01) == bench_plans(records, LAW, prefill_s=0.01)


def test_routers_without_a_model_are_the_constant_and_the_labels():
    constant, labels = bench_routers(FIXTURES / "vicuna80.jsonl", None)

    assert (constant.router, labels.router) == ("constant", "labels")
    assert constant.questions == labels.questions == 80
    assert constant.recall in (0.0, 1.0)
    assert labels.accuracy >= constant.accuracy
