"""The closed forms of when a turn is complete, against the recursion that they sum up, and their order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsys.tool_serve.bounds import CallShape, turn_bound

eighths = st.integers(0, 40).map(lambda n: n / 8)
shapes = st.builds(
    lambda units, last, rest: CallShape(
        max([at for at, _ in units], default=0.0) + last, rest,
        tuple(sorted(at for at, _ in units)), tuple(work for _, work in units),
    ),
    st.lists(st.tuples(eighths, eighths), max_size=6), eighths, eighths,
)  # fmt: skip


@given(shapes)
def test_the_work_is_done_when_the_recursion_says(shape):
    done = 0.0
    for release, work in zip(shape.releases_s, shape.works_s, strict=True):
        done = max(done, release) + work

    assert shape.done_s == done


@given(shapes)
def test_partial_is_never_later_than_sealed_nor_sealed_than_blocking(shape):
    assert shape.partial_s <= shape.seal_s <= shape.blocking_s


@given(shapes)
def test_nothing_saves_more_than_half(shape):
    first = shape.releases_s[0] if shape.releases_s else 0.0
    decode = shape.sealed_s + shape.rest_s

    assert shape.blocking_s - shape.partial_s <= min(shape.work_s, max(decode - first, 0.0)) + 1e-12
    assert shape.saving <= 0.5


def test_half_is_saved_where_the_work_is_as_long_as_decoding_and_released_at_once():
    assert CallShape(4.0, 0.0, (0.0,), (4.0,)).saving == 0.5


@given(st.lists(shapes, min_size=1, max_size=4), st.integers(1, 4))
def test_a_turn_takes_as_long_as_its_decoding_its_slowest_call_and_its_work_over_the_workers(calls, workers):
    decode_s = max(one.sealed_s for one in calls)
    bound = turn_bound(calls, decode_s=decode_s, concurrency=workers)

    assert bound >= decode_s
    assert all(bound >= one.done_s for one in calls)
    assert bound * workers >= sum(one.work_s for one in calls) - 1e-9
    assert turn_bound(calls, decode_s=decode_s, concurrency=workers + 1) <= bound


@pytest.mark.parametrize(
    "shape", [(1.0, 0.0, (2.0,), (1.0,)), (4.0, 0.0, (2.0, 1.0), (1.0, 1.0)), (1.0, 0.0, (), (1.0,))]
)
def test_times_that_cannot_be_are_refused(shape):
    with pytest.raises(ValueError, match="expected ascending releases"):
        CallShape(*shape)


def test_a_turn_needs_a_worker():
    with pytest.raises(ValueError, match="concurrency is 0"):
        turn_bound([], decode_s=1.0, concurrency=0)
