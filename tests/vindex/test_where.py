"""The language of predicates: what parses to what, against Python's own sets, and where a text is wrong."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsys.errors import UsageFault
from llmsys.vindex.where import And, AtLeast, Label, Not, Or, evaluate, parse

CARRIED = {"a": {0, 1, 2, 3}, "b": {2, 3, 4}, "c": {3, 5, 6}, "d": set()}
EVERYTHING = np.arange(8, dtype=np.int32)


def members(name):
    return np.array(sorted(CARRIED.get(name, ())), np.int32)


def spelled(expression):
    """A text of an expression, with every parenthesis."""
    match expression:
        case Label(name):
            return name
        case AtLeast(count, names):
            return f"AT_LEAST({count}; {', '.join(names)})"
        case Not(part):
            return f"NOT ({spelled(part)})"
        case And(parts):
            return "(" + " AND ".join(spelled(part) for part in parts) + ")"
        case Or(parts):
            return "(" + " OR ".join(spelled(part) for part in parts) + ")"


def meant(expression):
    match expression:
        case Label(name):
            return CARRIED[name]
        case AtLeast(count, names):
            return {slot for slot in range(8) if sum(slot in CARRIED[name] for name in names) >= count}
        case Not(part):
            return set(range(8)) - meant(part)
        case And(parts):
            return set.intersection(*(meant(part) for part in parts))
        case Or(parts):
            return set.union(*(meant(part) for part in parts))


NAMES = st.sampled_from("abcd")
LEAVES = st.one_of(
    st.builds(Label, NAMES),
    st.builds(AtLeast, st.integers(1, 4), st.lists(NAMES, min_size=1, unique=True).map(tuple)),
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(Not, inner),
        st.builds(And, st.lists(inner, min_size=2, max_size=3).map(tuple)),
        st.builds(Or, st.lists(inner, min_size=2, max_size=3).map(tuple)),
    ),
    max_leaves=8,
)


@given(TREES)
def test_an_expression_means_what_sets_say(expression):
    slots = evaluate(parse(spelled(expression)), members, EVERYTHING)

    assert slots.tolist() == sorted(meant(expression))


@given(TREES, st.sets(st.integers(0, 7)))
def test_nothing_outside_the_callers_own_comes_back(expression, own):
    within = np.array(sorted(own), np.int32)

    assert evaluate(expression, members, within).tolist() == sorted(meant(expression) & own)


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("a OR b AND NOT c", Or((Label("a"), And((Label("b"), Not(Label("c"))))))),
        ("a OR b OR a", AtLeast(1, ("a", "b"))),
        ("ALL(a, b, a)", AtLeast(2, ("a", "b"))),
        ("ANY(a)", AtLeast(1, ("a",))),
        ('"AND" AND "x \\"y\\" (z)"', And((Label("AND"), Label('x "y" (z)')))),
        ("kind:method AND pkg/torch", And((Label("kind:method"), Label("pkg/torch")))),
        ("NOT NOT a", Not(Not(Label("a")))),
    ],
)
def test_a_text_is_read_as_its_binding_says(text, right):
    assert parse(text) == right


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "the end at 0; expected a label"),
        ("a b", "'b' at 2"),
        ("a AND", "the end at 5"),
        ("(a", "expected ')'"),
        ("a)", "')' at 1"),
        ("NOT OR", "'OR' at 4; expected a label"),
        ("AT_LEAST(x; a)", "'x' at 9; expected a number"),
        ("AT_LEAST(0; a)", "expected a number"),
        ("AT_LEAST(2, a)", "expected ';'"),
        ("ANY()", "expected a label"),
        ('"open', "cannot read"),
        ("NOT " * 200 + "a", "at most 100 levels"),
        ("a OR " * 600 + "a", "cannot read"),
    ],
)
def test_a_wrong_text_is_refused_at_its_place(text, named):
    with pytest.raises(UsageFault) as caught:
        parse(text)

    assert named in str(caught.value)
