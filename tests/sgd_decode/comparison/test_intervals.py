"""Intervals hold what they promise, and pairs stay pairs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsys.sgd_decode.comparison import Interval, mean_interval, ratio_interval, wilson

values = st.floats(-100, 100)
groups = st.lists(st.lists(values, min_size=1, max_size=3), min_size=2, max_size=12)


@given(groups)
def test_an_interval_holds_its_value_between_the_smallest_and_the_largest_of_groups(given_groups):
    found = mean_interval(given_groups)
    flat = [value for group in given_groups for value in group]

    assert found.value == pytest.approx(np.mean(flat), abs=1e-9)
    assert min(flat) - 1e-9 <= found.low <= found.high <= max(flat) + 1e-9
    assert found.questions == len(given_groups)


@given(st.lists(st.floats(0.5, 100), min_size=2, max_size=10), st.floats(0.1, 10))
def test_a_ratio_that_every_pair_has_is_certain(below, ratio):
    found = ratio_interval([[ratio * value] for value in below], [[value] for value in below])

    assert (found.low, found.value, found.high) == pytest.approx((ratio,) * 3)


def test_pairs_are_drawn_together():
    """Ours is always 2 s faster than theirs, whatever the question's length: drawn apart this would be lost."""
    ours = [1.0, 10.0, 100.0, 1000.0]
    found = mean_interval([[value - (value + 2.0)] for value in ours])

    assert found == Interval(-2.0, -2.0, -2.0, 4)


def test_one_question_has_no_interval_and_none_has_no_figure():
    assert mean_interval([[1.0, 3.0]]) == Interval(2.0, None, None, 1)
    assert mean_interval([]) is None
    assert mean_interval([[], []]) is None
    assert mean_interval([[], [4.0]]) == Interval(4.0, None, None, 1)
    with pytest.raises(ValueError, match="2 questions above and 1 below"):
        ratio_interval([[1.0], [2.0]], [[1.0]])


def test_repeats_of_one_question_are_not_more_questions():
    once = mean_interval([[1.0], [2.0], [5.0]])
    often = mean_interval([[1.0] * 50, [2.0] * 50, [5.0] * 50])

    assert (once.low, once.high) == (often.low, often.high)


def test_the_interval_of_a_mean_covers_it_about_as_often_as_it_says():
    """400 samples of 40 normal values: a bootstrap's 95 % interval covers 88 to 99 % but for a chance below 1e-6."""
    random = np.random.default_rng(7)
    covered = 0
    for _ in range(400):
        found = mean_interval([[value] for value in random.normal(3.0, 2.0, 40)])
        covered += found.low <= 3.0 <= found.high

    assert 0.88 <= covered / 400 <= 0.99


@given(st.integers(0, 50), st.integers(1, 50))
def test_wilsons_interval_holds_the_share_and_is_narrower_with_more_of_the_same(hits, count):
    hits = min(hits, count)
    low, high = wilson(hits, count)
    closer = wilson(10 * hits, 10 * count)

    assert 0 <= low <= hits / count + 1e-12
    assert hits / count - 1e-12 <= high <= 1
    assert closer[1] - closer[0] < high - low


def test_wilsons_interval_is_the_published_one():
    """Newcombe 1998, table I: 81 of 263, and 0 of 20."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson(0, 0) == (0.0, 1.0)
