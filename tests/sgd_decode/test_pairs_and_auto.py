"""Two models of different speeds on one virtual clock, routing and escalation; mode auto and its routers."""

import json
from pathlib import Path

import pytest

from llmsys.errors import BadInput, UsageFault
from llmsys.sgd_decode import (
    ByLabels,
    DecodeSettings,
    Forwarding,
    Match,
    PairBackend,
    Question,
    Routing,
    Rule,
    ScriptBackend,
    StepTime,
    answer_all,
    open_router,
    writer_for,
)
from llmsys.sgd_decode.bench_plans import bench_plans, read_plans, script_of
from llmsys.sgd_decode.confidence import ConfidenceBook
from llmsys.sgd_decode.prompting import Prompts
from llmsys.sgd_decode.routers import Label, Quality, WordModel, cross_validate

FIXTURES = Path(__file__).parents[2] / "fixtures" / "sgd-decode"
PLAN = "1. Alpha | needs - | level 1\n2. Beta | needs - | level 4\n3. Gamma | needs 1 | level 2\nend"
ASKED = Question(0, "q", [{"role": "user", "content": "Why?"}])


def part(number, text="", **fields):
    return Rule(Match(f"about part {number},"), text, **fields)


def pair(large_rules, small_rules, *, small_step=0.5, **routing):
    """The answer of a slow large model (1 s a token) and a fast small one, both backends, and the events."""
    events = []
    large = ScriptBackend([Rule(Match("Write an outline"), PLAN), *large_rules], step_time=StepTime(1.0, 0.0))
    small = ScriptBackend(small_rules, step_time=StepTime(small_step, 0.0))
    settings = DecodeSettings(full_plan="never", routing=Routing(pair=True, **routing))
    (done,) = answer_all([ASKED], PairBackend(large, small), writer_for(settings, listen=events.append))
    return done, large, small, events


def test_parts_up_to_the_threshold_go_to_the_small_model_and_take_its_time():
    done, _, small, _ = pair([part(2, "b b b b")], [part(1, "a a a a"), part(3, "c")], threshold=2)

    assert done.text == "a a a a\n\nb b b b\n\nc"
    assert [p.model for p in done.parts] == ["small", "large", "small"]
    assert {job.id for job in small.jobs} == {"0/1", "0/3"}
    first, second, _ = done.parts
    assert (first.end_s - first.start_s) * 2 == pytest.approx(second.end_s - second.start_s)
    assert first.start_s < second.start_s < done.plan_s


def test_a_child_on_another_model_sees_its_parents_text():
    rules = [part(1, "the code is 4711"), Rule(Match("about part 3,", anywhere="4711"), "right"), part(3, "wrong")]
    done, _, _, _ = pair([part(2, "b")], rules)

    assert done.parts[2].text == "right"


def test_a_part_that_the_small_model_is_unsure_of_is_written_by_the_large_one_and_its_time_counts():
    unsure = [part(1, "maybe", logprob=-3.0), part(3, "sure", logprob=-0.1)]
    done, large, _, events = pair([part(1, "surely"), part(2, "b")], unsure, escalate=True, escalate_below=-1.0)

    assert done.text == "surely\n\nb\n\nsure"
    assert [event.node for event in events if event.event == "escalate"] == [1]
    assert done.parts[0].model == "large"
    assert done.tokens.dropped == 2
    assert any(job.id == "0/1" for job in large.jobs)


def test_without_a_bound_the_lowest_fifth_of_parts_seen_is_unsure():
    book = ConfidenceBook()
    doubts = [book.doubts(-value / 10) for value in range(10)]

    assert not any(doubts)
    assert book.doubts(-0.85)
    assert not book.doubts(-0.1)
    assert not book.doubts(None)


def test_a_model_that_fails_is_stood_in_for_by_the_other():
    done, _, small, _ = pair([part(1, "saved"), part(2, "b")], [part(1, error="down"), part(3, "c")])

    assert done.text == "saved\n\nb\n\nc"
    assert [job.id for job in small.jobs].count("0/1") == 3
    assert done.missing == []


def test_the_small_model_may_plan():
    small = [Rule(Match("Write an outline"), PLAN), part(1, "a"), part(3, "c")]
    done, large, _, _ = pair([part(2, "b")], small, planner="small")

    assert done.text == "a\n\nb\n\nc"
    assert [job.id for job in large.jobs] == ["0/2"]


def test_a_pair_is_faster_than_the_large_model_alone():
    rules = [part(1, tokens=40), part(2, tokens=40), part(3, tokens=40)]
    fast, _, _, _ = pair(rules, rules, threshold=2, small_step=0.25)
    slow, _, _, _ = pair(rules, rules, threshold=0)

    assert fast.total_s < slow.total_s
    assert fast.tokens.answer == slow.tokens.answer


@pytest.mark.parametrize(
    ("how", "sees"),
    [("full", ["first words", "last words"]), ("summary:3", ["first words", "last words"]), ("none", [])],
)
def test_a_part_sees_as_much_of_its_parents_as_it_is_told(how, sees):
    text = "first words " + " ".join(f"middle{n}" for n in range(40)) + " " + "last words"
    rules = [Rule(Match("Write an outline"), PLAN), part(1, text), part(2, "b"), part(3, "c")]
    backend = ScriptBackend(rules)
    (done,) = answer_all([ASKED], backend, writer_for(DecodeSettings(forward=Forwarding.parse(how))))
    (child,) = [job for job in backend.jobs if job.id == "0/3"]
    told = "\n".join(message["content"] for message in child.messages)

    assert all(piece in told for piece in sees)
    assert ("middle20" in told) == (how == "full")
    assert done.parts[0].text == text


@pytest.mark.parametrize("wrong", ["all", "summary", "summary:0", "summary:x", ""])
def test_a_way_of_forwarding_that_is_none_is_refused(wrong):
    with pytest.raises(UsageFault, match="summary:N"):
        Forwarding.parse(wrong)


@pytest.mark.parametrize(("full_plan", "seen"), [("always", True), ("never", False)])
def test_a_part_sees_the_whole_plan_or_the_lines_up_to_its_own(full_plan, seen):
    rules = [Rule(Match("Write an outline"), PLAN), part(1, "a"), part(2, "b"), part(3, "c")]
    backend = ScriptBackend(rules)
    (done,) = answer_all([ASKED], backend, writer_for(DecodeSettings(full_plan=full_plan)))
    (first,) = [job for job in backend.jobs if job.id == "0/1"]

    assert ("Gamma" in first.messages[-2]["content"]) == seen
    assert (done.parts[0].start_s >= done.plan_s) == seen


def test_auto_is_never_under_97_percent_of_ar_on_recorded_plans_and_the_schedule_is_the_optimum():
    """The step-time laws of a laptop and of a GPU, without a clock."""
    records = read_plans(FIXTURES / "plans.jsonl")
    for law, prefill_s, over_v1 in ((StepTime(0.0262, 0.0031), 0.003, 1.29), (StepTime(0.02, 0.0015), 0.0005, 1.15)):
        found = bench_plans(records, law, prefill_s=prefill_s)

        assert found.least_auto >= 0.97
        assert found.worst_of_optimum <= 1.03
        assert found.wide_speed_up >= 2.3
        assert found.prefill_below >= 0.75
        assert found.mean_over_v1 >= over_v1
        assert all(row.makespan_s >= row.bound_s - 1e-9 for row in found.rows)


def auto(rules, *, router="plan", step_time=None, question=ASKED):
    backend = ScriptBackend(rules, step_time=StepTime(1.0, 0.1))
    settings = DecodeSettings(mode="auto", step_time=step_time or StepTime(1.0, 0.1))
    (done,) = answer_all([question], backend, writer_for(settings, router=open_router(str(router), Prompts.load())))
    return done, backend


def recorded(name):
    (record,) = [record for record in read_plans(FIXTURES / "plans.jsonl") if record.id == name]
    return script_of(record)


def test_auto_splits_a_wide_plan_and_ends_the_answer_in_one_piece():
    done, _ = auto(recorded("synthetic-wide"))

    assert done.mode == "sgd"
    assert len(done.parts) == 10
    assert 0 < done.tokens.dropped < done.tokens.answer / 4


def test_auto_finishes_the_answer_in_one_piece_where_the_plan_is_a_chain():
    done, backend = auto(recorded("synthetic-chain"))

    assert done.mode == "ar"
    assert done.parts == ()
    assert done.tokens.answer > 300
    assert not [job for job in backend.jobs if job.id.rpartition("/")[2].isdecimal()]


def test_auto_stops_planning_when_a_short_answer_is_there():
    done, _ = auto([Rule(Match("Write an outline"), tokens=300), Rule(text="Yes.")])

    assert (done.text, done.mode) == ("Yes.", "ar")
    assert done.total_s < 5


@pytest.mark.parametrize(("letter", "mode"), [("A", "sgd"), ("b", "sgd"), ("C", "ar"), ("42", "ar")])
def test_the_model_that_is_asked_routes_by_its_letter(letter, mode):
    rules = [Rule(Match("Answer with one letter"), letter), *recorded("synthetic-wide")]
    done, backend = auto(rules, router="model")

    assert done.mode == mode
    assert backend.jobs[0].id == "0/route"
    assert done.start_s == 0.0


def test_labels_route_questions_like_those_they_were_learnt_from(tmp_path):
    wide, chain = "List the benefits of {}", "Write a program that sorts {}"
    names = ["tea", "sleep", "rain", "books", "bread"]
    lines = [
        {"question": text.format(name), "parallel_suitable": int(text is wide)}
        for name in names
        for text in (wide, chain)
    ]
    file = tmp_path / "labels.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    router = open_router(str(file), Prompts.load())

    assert isinstance(router, ByLabels)
    assert router.verdict(Question(0, "a", [{"role": "user", "content": wide.format("music")}]), "") == "graph"
    assert router.verdict(Question(0, "b", [{"role": "user", "content": chain.format("music")}]), "") == "plain"
    file.write_text(json.dumps(lines[0]) + "\n")
    with pytest.raises(BadInput, match="both labels"):
        open_router(str(file), Prompts.load())


def test_cross_validation_never_asks_a_model_about_a_question_that_it_learnt():
    """A question that stands twice under both labels is memorised by a model that has seen it, and only by that."""
    labels = [Label(f"word{number} thing{number}", number % 2) for number in range(20)]
    memory = WordModel([label.question for label in labels], [label.parallel_suitable for label in labels])
    said = cross_validate(labels)

    assert all(memory.likely(label.question) == bool(label.parallel_suitable) for label in labels)
    assert sum(one == bool(label.parallel_suitable) for one, label in zip(said, labels, strict=True)) < 20


def test_accuracy_precision_and_recall_are_counted():
    found = Quality.of("x", [True, True, False, False], [1, 0, 1, 0])

    assert (found.accuracy, found.precision, found.recall) == (0.5, 0.5, 0.5)
