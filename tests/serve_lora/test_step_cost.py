"""A step's seconds are split without loss, and nobody pays more because someone else came."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsys.serve_lora.step_cost import StepModel, StepRow, marginal_parts, split_step, step_parts

rates = st.floats(0, 1e-2, allow_subnormal=False)
models = st.builds(StepModel, rates, rates, rates, rates, rates, rates)


@st.composite
def step_rows(draw: st.DrawFn) -> list[StepRow]:
    ranks = {"": 0, "fr": 8, "json": 16, "upper": 64}
    count = draw(st.integers(1, 12))
    rows = []
    for request in range(count):
        adapter = draw(st.sampled_from(sorted(ranks)))
        prefill = draw(st.integers(0, 200))
        rows.append(
            StepRow(
                request,
                draw(st.sampled_from(["a", "b", "c"])),
                adapter,
                ranks[adapter],
                prefill,
                draw(st.integers(0, 1)) if prefill else 1,
                draw(st.integers(0, 4000)),
            )
        )
    return rows


@given(st.floats(1e-6, 1e4), step_rows(), models)
def test_shares_sum_to_the_seconds_measured(seconds, rows, model):
    shares = split_step(seconds, rows, model)

    assert math.isclose(math.fsum(shares), seconds, rel_tol=1e-12)
    assert min(shares) >= 0


@given(st.floats(1e-6, 1e4), step_rows(), models)
def test_a_request_alone_pays_the_whole_step(seconds, rows, model):
    assert split_step(seconds, rows[:1], model) == [pytest.approx(seconds, rel=1e-12)]


@given(st.floats(1e-6, 1e4), step_rows(), models)
def test_two_equal_requests_pay_the_same(seconds, rows, model):
    twin = rows[0]

    shares = split_step(seconds, [*rows, twin], model)

    assert shares[0] == shares[-1]


@given(step_rows(), step_rows(), models)
def test_another_request_never_raises_anyones_modelled_part(rows, more, model):
    for before_of, after_of in ((marginal_parts, marginal_parts), (step_parts, step_parts)):
        before = before_of(rows, model)
        after = after_of([*rows, more[0]], model)

        assert all(late <= early * (1 + 1e-12) for early, late in zip(before, after, strict=False))


def test_a_segment_is_shared_by_its_own_rows_only():
    model = StepModel(0, 0, 0, 0, segment_s=1.0, segment_rank_s=0.5)
    rows = [
        StepRow(0, "a", "fr", 8, prefill_tokens=3),
        StepRow(1, "b", "fr", 8, decode_tokens=1),
        StepRow(2, "c", "", 0, decode_tokens=1),
        StepRow(3, "d", "json", 2, decode_tokens=1),
    ]

    assert marginal_parts(rows, model) == [3.75, 1.25, 0.0, 2.0]


def test_the_fixed_part_follows_the_tokens():
    model = StepModel(fixed_s=2.0, prefill_s=1.0, decode_s=3.0, context_s=0.0)
    rows = [StepRow(0, "a", prefill_tokens=1), StepRow(1, "b", decode_tokens=1)]

    assert step_parts(rows, model) == [1.5, 4.5]


def test_a_step_of_nobody_is_refused():
    with pytest.raises(ValueError, match="0 rows"):
        split_step(1.0, [], StepModel())


def test_a_negative_rate_is_refused_by_name():
    with pytest.raises(ValueError, match="decode_s is -1"):
        StepModel(decode_s=-1)
