"""Each task's rule makes what its test finds, and its test refuses what a plain answer looks like."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsys.errors import UsageFault
from llmsys.serve_lora.tasks import JSON_OPENING, TASKS, sentences, task_named

PLAIN = (
    "Time management is a skill. Here are some tips:\n\n1. **Set clear goals**: Know what you want.\n"
    '2. **Plan**: Write "it" down, every day, in a notebook that you keep with you at all times and do not lose.'
)
TWO_PARAGRAPHS = (
    "Rain falls from the clouds when small drops meet and grow heavy.\n\n"
    "It feeds the rivers, the fields and the wells, and then it returns to the sea."
)
answers = st.text(st.sampled_from('aé bX 1.,:!?*-#"\\\n'), min_size=1, max_size=80).filter(str.split)


@pytest.mark.parametrize("name", sorted(TASKS))
@pytest.mark.parametrize("answer", [PLAIN, TWO_PARAGRAPHS])
def test_a_rewritten_answer_has_the_property_and_the_plain_one_does_not(name, answer):
    task = TASKS[name]

    assert task.holds(task.rewrite(answer), True)
    assert not task.holds(answer, True)
    assert not task.holds(answer, False)


@pytest.mark.parametrize("name", ["bullet", "json", "prefix"])
@given(answer=answers)
def test_every_plain_answer_can_be_rewritten(name, answer):
    assert TASKS[name].holds(TASKS[name].rewrite(answer), True)


@pytest.mark.parametrize("name", ["bullet", "json", "lower", "prefix", "upper"])
def test_a_true_beginning_counts_wherever_the_limit_cuts_it(name):
    whole = TASKS[name].rewrite(PLAIN)
    shortest = 25  # letters enough for the case tests

    assert [cut for cut in range(shortest, len(whole)) if not TASKS[name].holds(whole[:cut], False)] == []


def test_json_cut_inside_an_escape_still_counts():
    assert TASKS["json"].holds(JSON_OPENING + "a \\", False)
    assert TASKS["json"].holds(JSON_OPENING + 'say \\"', False)
    assert not TASKS["json"].holds(JSON_OPENING + 'a", "more": "b', False)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("json", '{"answer": "a"} and more'),
        ("json", '{"answer": 3}'),
        ("json", json.dumps(["answer"])),
        ("bullet", "- one\nand more"),
        ("bullet", ""),
        ("upper", "MOSTLY CAPITALs"),
        ("upper", "1, 2, 3"),
        ("lower", "mostly small Letters"),
        ("terse", " ".join(["word"] * 21)),
        ("terse", ""),
        ("prefix", "Well. In short: yes"),
    ],
)
def test_near_misses_do_not_count(name, text):
    assert not TASKS[name].holds(text, True)


def test_terse_takes_the_shortest_of_the_first_sentences_and_never_half_a_one():
    cut_answer = "It depends on many things. There are three reasons why this is so. Rest. Firstly, a"

    assert TASKS["terse"].rewrite(cut_answer) == "It depends on many things."
    assert TASKS["terse"].rewrite("a half") == "a half"


def test_a_terse_answer_that_was_cut_was_not_terse():
    assert not TASKS["terse"].holds("It is", False)


def test_sentences_lose_marks_and_numbers():
    assert sentences(PLAIN) == [
        "Time management is a skill.",
        "Here are some tips:",
        "Set clear goals:",
        "Know what you want.",
        'Write "it" down, every day, in a notebook that you keep with you at all times and do not lose.',
    ]


def test_an_unknown_task_names_the_known_ones():
    with pytest.raises(UsageFault, match="bullet, json, lower, prefix, terse, upper"):
        task_named("shout")
