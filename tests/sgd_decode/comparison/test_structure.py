"""What is measured of a text's form, by hand and against slow definitions."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsys.sgd_decode.comparison import Trial, TrialPart, structure_of, structure_reports
from llmsys.sgd_decode.comparison.structure import rouge_l

few = st.lists(st.sampled_from("abc"), max_size=7)


def trial(*parts, mode="sgd", text="", question="q", **fields):
    """An answer of parts (title, needs, text)."""
    made = tuple(TrialPart(number, *part, tokens=1) for number, part in enumerate(parts, 1))
    figures = {"plan_s": 0.0, "total_s": 1.0, "plan_tokens": 1, "answer_tokens": 1, "prefill": 1, "prefill_saved": 0}
    return Trial(
        mode, question, 0, "Why?", mode, text, made, **(figures | {"billed_tokens": 2, "failed": False} | fields)
    )


def longest_by_trying(first, second):
    """The longest subsequence of the first that the second has too, by trying all."""

    def inside(sub):
        rest = iter(second)
        return all(word in rest for word in sub)

    return max(size for size in range(len(first) + 1) if any(map(inside, combinations(first, size))))


@given(few, few)
def test_rouge_l_is_the_f1_of_the_longest_common_subsequence(first, second):
    expected = 2 * longest_by_trying(first, second) / (len(first) + len(second)) if first and second else 0.0

    assert rouge_l(first, second) == pytest.approx(expected)
    assert rouge_l(second, first) == pytest.approx(expected)


def test_parts_that_say_the_same_are_redundant_and_parts_that_do_not_are_not():
    same = structure_of(trial(("A", (), "the cat sat there"), ("B", (), "the cat sat there")))
    other = structure_of(trial(("A", (), "the cat sat there"), ("B", (), "rivers flow down slowly")))

    assert (same.redundancy, other.redundancy) == (1.0, 0.0)
    assert same.distinct < other.distinct == 1.0


def test_an_answer_in_one_piece_is_measured_by_its_paragraphs():
    measured = structure_of(trial(text="one two three four\n\none two three four", mode="ar"))

    assert measured.redundancy == 1.0
    assert measured.coverage is None
    assert structure_of(trial(text="short", mode="ar")).redundancy is None


def test_coverage_is_the_share_of_a_titles_words_that_its_part_has():
    found = structure_of(trial(("Costs and benefits", (), "Costs are low."), ("Of it", (), "Nothing.")))

    assert found.coverage == 0.5  # "and", "Of", "it" are the grammar's


@pytest.mark.parametrize(
    ("parent", "child", "count"),
    [
        ("There are 12 planets.", "The 13 planets turn.", 1),
        ("There are 12 planets.", "The 12 planets turn.", 0),
        ("Some say 9 planets, some 12 planets.", "The 12 planets turn.", 0),
        ("It has 1,000 rooms.", "The 1000 rooms are cold.", 0),
        ("It has 3.5 metres.", "It has 3.6 metres.", 1),
        ("Twelve planets.", "The 13 planets turn.", 0),
    ],
)
def test_a_number_that_its_parent_gives_otherwise_is_a_contradiction(parent, child, count):
    assert structure_of(trial(("A", (), parent), ("B", (1,), child))).contradictions == count
    assert structure_of(trial(("A", (), parent), ("B", (), child))).contradictions == 0


def test_a_report_is_over_the_questions_of_its_mode():
    trials = [
        trial(("Alpha", (), "alpha"), ("Beta", (), "beta"), question="1"),
        trial(("Alpha", (), "x"), ("Beta", (), "y"), question="2"),
        trial(text="one piece", mode="ar", question="1"),
    ]
    plain, graph = structure_reports(trials, ["ar", "sgd"])

    assert plain.coverage is None
    assert (graph.coverage.value, graph.coverage.questions) == (0.5, 2)


@given(st.text(max_size=200), st.text(max_size=200), st.text(max_size=40))
def test_any_text_can_be_measured(first, second, title):
    found = structure_of(trial((title, (), first), (title, (1,), second)))

    assert found.redundancy is None or 0 <= found.redundancy <= 1
    assert found.coverage is None or 0 <= found.coverage <= 1
