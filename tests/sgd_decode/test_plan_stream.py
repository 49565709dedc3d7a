"""A plan read while it is written gives the parts of the whole text, as early as their lines end."""

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsys.sgd_decode import Node, Plan, parse_plan, render
from llmsys.sgd_decode.plan_grammar import PlanGrammar, plan_regex
from llmsys.sgd_decode.plan_stream import PlanStream

FIXTURES = Path(__file__).parents[2] / "fixtures" / "sgd-decode"
BAD = [json.loads(line)["text"] for line in (FIXTURES / "bad_plans.jsonl").read_text(encoding="utf-8").splitlines()]
PLAN = "1. Alpha | needs - | level 1\n2. Beta | needs 1 | level 2\n3. Gamma | needs 1,2 | level 3\nend"

titles = st.text("abcdefgh XYZ", min_size=1, max_size=20).map(lambda text: " ".join(text.split())).filter(bool)


@st.composite
def plans(draw, most=8):
    count = draw(st.integers(2, most))
    nodes = [
        Node(
            number,
            draw(titles),
            tuple(sorted(draw(st.sets(st.integers(1, number - 1), max_size=3)))) if number > 1 else (),
            draw(st.integers(1, 5)),
        )
        for number in range(1, count + 1)
    ]
    return Plan(tuple(nodes))


def cut(text, places):
    ends = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    return [text[first:second] for first, second in pairwise(ends)]


def read(text, places=()):
    stream, early = PlanStream(max_nodes=10), []
    for piece in cut(text, places):
        early += stream.add(piece)
    plan, rest = stream.close()
    return plan, early, rest, stream


@given(plans(), st.lists(st.integers(0, 500), max_size=20))
def test_a_canonical_plan_in_any_pieces_is_read_line_by_line(plan, places):
    read_plan, early, rest, _ = read(render(plan), places)

    assert read_plan == plan
    assert read_plan.repairs == ()
    assert tuple(early) == plan.nodes
    assert rest == []


@given(st.one_of(st.text(max_size=200), st.sampled_from(BAD)), st.lists(st.integers(0, 500), max_size=8))
def test_what_was_returned_early_stands_whatever_follows(text, places):
    plan, early, rest, _ = read(text, places)

    assert plan.nodes == (*early, *rest)
    assert early or plan.nodes == parse_plan(text).nodes


def test_a_part_is_there_when_its_line_ends_and_not_before():
    stream = PlanStream(max_nodes=10)

    assert stream.add("1. Alpha | needs - | level 1") == []
    assert [node.title for node in stream.add("\n2. Beta | ne")] == ["Alpha"]


def test_a_line_that_is_no_part_ends_early_reading_and_the_first_parts_stand():
    text = "1. Alpha | needs - | level 1\nwell\n2. Beta | needs 1 | level 2\n1. Other | needs - | level 1"
    plan, early, _, _ = read(text)

    assert [node.title for node in early] == ["Alpha"]
    assert plan.nodes[0].title == "Alpha"


@pytest.mark.parametrize(
    "line",
    [
        "2. Beta | needs 3 | level 1",
        "2. Beta | needs 2 | level 1",
        "3. Beta | needs - | level 1",
        "2. | needs - | level 1",
    ],
)
def test_a_line_that_cannot_stand_here_waits_for_the_whole_text(line):
    _, early, _, _ = read(f"1. Alpha | needs - | level 1\n{line}\n")

    assert [node.id for node in early] == [1]


def test_the_prefix_of_a_part_is_the_planners_words_up_to_its_line():
    plan, _, _, stream = read(PLAN)

    assert stream.prefix(plan.nodes[1]) == "".join(PLAN.splitlines(keepends=True)[:2])
    assert stream.prefix(Node(9, "unknown")) == PLAN


@given(plans(most=5))
def test_every_plan_in_canonical_form_obeys_the_grammar(plan):
    shown = Plan(tuple(Node(n.id, f"Title {n.id} of it", n.needs, n.level) for n in plan.nodes))

    assert re.fullmatch(plan_regex(5), render(shown))


@pytest.mark.parametrize(
    "text",
    [
        PLAN.replace("needs 1,2", "needs 2,1"),
        PLAN.replace("needs 1,2", "needs 3"),
        PLAN.replace("needs 1\n", "needs 2\n").replace("needs 1 |", "needs 2 |"),
        PLAN.replace("level 3", "level 6"),
        PLAN.replace("3. ", "4. "),
        PLAN.removesuffix("end"),
        PLAN.splitlines()[0] + "\nend",
        PLAN.replace("Beta", "Be|ta"),
        "Sure!\n" + PLAN,
    ],
)
def test_a_text_that_is_no_plan_breaks_the_grammar(text):
    assert not re.fullmatch(plan_regex(4), text)


@given(st.from_regex(plan_regex(4), fullmatch=True))
def test_whatever_obeys_the_grammar_is_a_plan_without_repairs(text):
    """Acyclic by construction: a title that cleaning would change is the only thing a grammar leaves to repair."""
    plan = parse_plan(text)

    assert all(need < node.id for node in plan.nodes for need in node.needs)
    assert not [repair for repair in plan.repairs if repair.startswith(("R2", "R3", "R4", "R5", "R6", "R8"))]


@pytest.mark.xdist_group("smollm2")
def test_the_mask_of_a_real_tokenizer_leads_any_choice_of_tokens_to_a_plan():
    """Tokens drawn at random among those the mask leaves, until the end: always a plan of the grammar."""
    import torch

    from llmsys.engine.tokens import Tokenizer
    from llmsys.gpu import embedded_model

    tokenizer = Tokenizer.load(embedded_model())
    grammar = PlanGrammar(tokenizer.as_json(), tokenizer.eos_ids)
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        mask, ids = grammar.mask(0, max_parts=3), []
        while True:
            logits = torch.zeros(49152)
            mask(ids, logits)
            token = int(torch.multinomial(logits.softmax(0), 1, generator=generator))
            if token in tokenizer.eos_ids:
                break
            ids.append(token)
        assert re.fullmatch(plan_regex(3), tokenizer.decode(ids))
