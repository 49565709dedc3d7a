"""Whatever the plan, the lengths, the faults and the width: parts keep their order, and nobody loses another's text."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsys.sgd_decode import (
    Decoder,
    DecodeSettings,
    Forwarding,
    Match,
    PairBackend,
    Routing,
    Rule,
    ScriptBackend,
    StepTime,
    answer_all,
    render,
    writer_for,
)
from tests.sgd_decode.stand_ins import question
from tests.sgd_decode.test_plan_stream import plans

LAW = StepTime(1.0, 0.125)


@st.composite
def scripts(draw):
    """A plan, how many tokens its parts take, and how often each fails before it is written (4: always)."""
    plan = draw(plans(most=7))
    lengths = {node.id: draw(st.integers(1, 12)) for node in plan.nodes}
    faults = {node.id: draw(st.sampled_from([0, 0, 0, 1, 2, 4])) for node in plan.nodes}
    return plan, lengths, faults


def rules_of(plan, lengths, faults=None):
    rules = [Rule(Match("Write an outline"), render(plan))]
    for node in plan.nodes:
        failing = (faults or {}).get(node.id, 0)
        if failing:
            times = None if failing > 3 else failing
            rules.append(Rule(Match(f"about part {node.id},"), error="node down", times=times))
        text = " ".join(f"p{node.id}w{number}" for number in range(lengths[node.id]))
        rules.append(Rule(Match(f"about part {node.id},"), text))
    return rules


def answer(plan, lengths, faults=None, *, slots=8, count=1, **fields):
    events = []
    backend = ScriptBackend(rules_of(plan, lengths, faults), step_time=LAW, slots=slots)
    chosen = DecodeSettings(**({"retries": 2} | fields))
    asked = [question(number) for number in range(count)]
    return list(answer_all(asked, backend, writer_for(chosen, listen=events.append))), backend, events


@given(scripts(), st.integers(1, 5), st.booleans(), st.sampled_from(["auto", "always", "never"]))
@settings(max_examples=60)
def test_a_part_starts_when_what_it_needs_is_written_and_slots_are_never_passed(script, slots, pipeline, full_plan):
    (done,), backend, events = answer(*script, slots=slots, pipeline=pipeline, full_plan=full_plan)
    parts = {part.id: part for part in done.parts}
    running, most = 0, 0
    for event in events:
        running += event.event in ("plan_start", "node_start")
        running -= event.event in ("plan_end", "node_end", "node_retry")
        most = max(most, running)

    assert all(parts[need].end_s <= part.start_s for part in done.parts for need in part.needs)
    assert most <= slots
    assert pipeline or all(part.start_s >= done.plan_s for part in done.parts)
    assert not backend.wait()


@given(scripts())
@settings(max_examples=40)
def test_the_text_is_the_same_for_every_width_and_every_way_of_starting(script):
    texts = {
        answer(*script, slots=slots, pipeline=pipeline, continue_parent=going_on)[0][0].text
        for slots, pipeline, going_on in ((1, True, True), (2, True, False), (8, False, True), (8, True, True))
    }

    assert len(texts) == 1


@given(scripts())
@settings(max_examples=40)
def test_a_part_that_fails_for_good_is_marked_and_every_other_is_whole(script):
    plan, lengths, faults = script
    (done,), backend, _ = answer(*script)
    tries = Counter(job.id for job in backend.jobs)

    assert done.missing == [number for number, failing in faults.items() if failing > 3]
    for part in done.parts:
        whole = " ".join(f"p{part.id}w{number}" for number in range(lengths[part.id]))
        assert part.text == ("" if part.id in done.missing else whole)
        assert tries[f"0/{part.id}"] == min(faults[part.id], 2) + 1
    assert done.text.split("\n\n") == [
        f"[part {part.id} unavailable]" if part.id in done.missing else part.text for part in done.parts
    ]
    assert len(plan.nodes) == len(done.parts)


@given(scripts(), st.booleans())
@settings(max_examples=40)
def test_every_token_is_counted_once(script, going_on):
    plan, lengths, _ = script
    (done,), backend, events = answer(plan, lengths, continue_parent=going_on)
    streamed = sum(event.tokens for event in events if event.event == "node_token")

    assert done.tokens.answer == streamed == sum(part.tokens for part in done.parts)
    assert done.tokens.dropped == 0
    assert done.tokens.plan > 0
    assert done.tokens.prefill > 0
    assert done.tokens.planning <= done.tokens.prefill
    assert len(backend.jobs) == 1 + len(plan.nodes)


@given(scripts(), st.integers(2, 5), st.integers(1, 3))
@settings(max_examples=25)
def test_questions_side_by_side_get_the_answers_they_get_alone(script, count, slots):
    alone, _, _ = answer(*script[:2])
    together, _, _ = answer(*script[:2], count=count, slots=slots)

    assert [done.text for done in together] == [alone[0].text] * count
    assert [done.question.number for done in together] == list(range(count))


@given(scripts(), st.integers(0, 40))
@settings(max_examples=40)
def test_a_question_that_is_dropped_at_any_moment_leaves_nothing_running(script, turns):
    backend = ScriptBackend(rules_of(*script), step_time=LAW, slots=3)
    decoder, make = Decoder(backend), writer_for(DecodeSettings())
    leaving, staying = make(question(0)), make(question(1))
    decoder.add(leaving)
    decoder.add(staying)
    for _ in range(turns):
        if not decoder.unfinished:
            break
        decoder.turn()
    decoder.drop(leaving)
    started = len(backend.jobs)
    while not staying.done:
        decoder.turn()

    assert not [job for job in backend.jobs[started:] if job.id.startswith("0/")]
    assert staying.answer().text == answer(*script)[0][0].text
    assert backend.wait() == []


@given(scripts(), st.integers(0, 5))
@settings(max_examples=30)
def test_with_two_models_every_part_is_written_by_the_one_of_its_level(script, threshold):
    plan, lengths, _ = script
    rules = rules_of(plan, lengths)
    large, small = ScriptBackend(rules, step_time=LAW), ScriptBackend(rules, step_time=StepTime(0.25, 0.01))
    chosen = DecodeSettings(routing=Routing(pair=True, threshold=threshold))
    (done,) = answer_all([question(0)], PairBackend(large, small), writer_for(chosen))

    assert [part.model for part in done.parts] == [
        "small" if part.level <= threshold else "large" for part in done.parts
    ]
    assert done.text == answer(plan, lengths)[0][0].text
    assert {job.id for job in small.jobs} == {f"0/{part.id}" for part in done.parts if part.model == "small"}


@given(scripts())
@settings(max_examples=30)
def test_a_child_is_told_all_its_parents_wrote_once_and_nothing_of_others(script):
    plan, lengths, _ = script
    _, backend, _ = answer(plan, lengths)
    ancestors = {}
    for node in plan.nodes:
        ancestors[node.id] = set(node.needs).union(*(ancestors[need] for need in node.needs))
    for job in backend.jobs[1:]:
        number = int(job.id.rpartition("/")[2])
        words = " ".join(message["content"] for message in job.messages).split()
        for other in plan.nodes:
            told = words.count(f"p{other.id}w0")
            if other.id in plan.nodes[number - 1].needs:
                assert told == 1
            else:
                assert told <= (other.id in ancestors[number])


@pytest.mark.parametrize("kind", ["none", "summary:2"])
def test_what_is_not_forwarded_whole_is_not_in_the_conversation_either(kind):
    """A child that went on in its parent's conversation would see all of it."""
    script = ScriptBackend(
        [
            Rule(Match("Write an outline"), "1. A | needs - | level 1\n2. B | needs 1 | level 1\nend"),
            Rule(Match("about part 1,"), "first " + "middle " * 30 + "last"),
            Rule(Match("about part 2,", anywhere="middle middle middle"), "saw it"),
            Rule(Match("about part 2,"), "saw it not"),
        ]
    )
    (done,) = answer_all([question(0)], script, writer_for(DecodeSettings(forward=Forwarding.parse(kind))))

    assert done.parts[1].text == "saw it not"


def test_a_prompt_that_no_window_holds_is_shortened_once_and_told():
    """Refused with all of its parents, a part is asked again with their first and last words."""
    long = " ".join(f"word{number}" for number in range(400))
    plan = "1. A | needs - | level 5\n2. B | needs 1 | level 1\nend"

    class Narrow(ScriptBackend):
        """Refuses prompts of more than 300 words, for good."""

        def wait(self, timeout_s=None):
            from dataclasses import replace

            return [replace(delta, refused=delta.end == "error") for delta in super().wait(timeout_s)]

    backend = Narrow(
        [
            Rule(Match("Write an outline"), plan),
            Rule(Match("about part 1,"), long),
            Rule(Match("about part 2,", anywhere="word200 word201"), error="context length exceeded"),
            Rule(Match("about part 2,", anywhere="word0 word1"), "short enough"),
        ]
    )
    (done,) = answer_all([question(0)], backend, writer_for(DecodeSettings(node_tokens=500)))

    assert done.parts[1].text == "short enough"
    assert any(repair.startswith("window:2") for repair in done.plan.repairs)
    assert [job.id for job in backend.jobs].count("0/2") == 2
