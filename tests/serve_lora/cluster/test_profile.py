"""Fitting, reading and writing what a replica can do; adapters by popularity."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsys.artifacts import TraceRecord
from llmsys.errors import BadInput, UsageFault
from llmsys.serve_lora.cluster import (
    ReplicaProfile,
    Sample,
    assign_adapters,
    fit_profile,
    make_router,
    popularity_counts,
    read_profile,
    write_profile,
)
from llmsys.serve_lora.step_cost import StepModel, StepRow, step_parts

TRUE = StepModel(fixed_s=0.02, prefill_s=0.001, decode_s=0.002, context_s=3e-6, segment_s=0.0005, segment_rank_s=4e-5)


def steps(seed, noise=0.0):
    """Random steps and the time that TRUE gives them, up to relative noise."""
    dice = np.random.default_rng(seed)
    samples = []
    for _ in range(60):
        rows = []
        for at in range(int(dice.integers(1, 20))):
            adapter = dice.choice(["", "a", "b", "c"])
            rank = {"": 0, "a": 4, "b": 16, "c": 64}[adapter]
            decodes = bool(dice.integers(2))
            kind = {"decode_tokens": 1} if decodes else {"prefill_tokens": int(dice.integers(1, 100))}
            rows.append(StepRow(at, "t", str(adapter), rank, context_tokens=int(dice.integers(1, 2000)), **kind))
        seconds = sum(step_parts(rows, TRUE)) * (1 + noise * dice.standard_normal())
        samples.append(Sample(tuple(rows), seconds))
    return samples


@pytest.mark.parametrize("seed", range(3))
def test_a_fit_finds_the_coefficients_that_made_the_steps(seed):
    fit = fit_profile(steps(seed))

    for name in StepModel.__slots__:
        assert getattr(fit.model, name) == pytest.approx(getattr(TRUE, name), rel=1e-6)
    assert fit.error_p90 < 1e-9


def test_a_fit_of_noisy_steps_is_as_close_as_the_noise():
    fit = fit_profile(steps(0, noise=0.05))

    assert 0.01 < fit.error_p50 < 0.06
    assert fit.model.prefill_s == pytest.approx(TRUE.prefill_s, rel=0.2)


def test_too_few_steps_and_steps_of_no_time_are_refused():
    with pytest.raises(ValueError, match="at least 6"):
        fit_profile(steps(0)[:5])
    with pytest.raises(ValueError, match="no time"):
        fit_profile([Sample(sample.rows, 0.0) for sample in steps(0)])


def test_a_profile_comes_back_as_it_was_written(tmp_path):
    profile = ReplicaProfile(max_batch=7, cold_start_s=1.25)

    write_profile(tmp_path / "p.json", profile)

    assert read_profile(tmp_path / "p.json") == profile
    assert read_profile(None) == ReplicaProfile()


@pytest.mark.parametrize("text", ["{", '{"max_batch": 0}', '{"steps": 1}', '{"step": {"fixed": 1}}', "[]", "\xff"])
def test_a_file_that_is_no_profile_is_named(tmp_path, text):
    (tmp_path / "p.json").write_text(text, encoding="latin-1")

    with pytest.raises(BadInput, match=r"p\.json.*calibrate"):
        read_profile(tmp_path / "p.json")


@given(
    st.sampled_from(["distinct", "uniform", "identical", "geometric:1.5", "geometric:3", "zipf:1", "zipf:1.5"]),
    st.integers(0, 500),
)
def test_a_popularity_gives_every_request_one_adapter(popularity, n):
    counts = popularity_counts(popularity, n)

    assert sum(counts) == n
    assert all(count > 0 for count in counts)


def test_popularities_are_punicas():
    assert popularity_counts("distinct", 3) == [1, 1, 1]
    assert popularity_counts("identical", 3) == [3]
    assert popularity_counts("geometric:1.5", 64) == [1, 1, 2, 3, 5, 7, 11, 17, 17]
    assert popularity_counts("zipf:1.5", 100) == sorted(popularity_counts("zipf:1.5", 100), reverse=True)


@pytest.mark.parametrize("popularity", ["skewed", "zipf", "zipf:x", "zipf:-1", "geometric:1", "zipf:nan"])
def test_an_unknown_popularity_is_a_usage_fault(popularity):
    with pytest.raises(UsageFault, match="--popularity"):
        popularity_counts(popularity, 9)


def test_a_trace_keeps_its_adapters_or_gets_them_by_seed():
    trace = [
        TraceRecord(id=str(at), tenant="ann", arrival_s=0.0, prompt_tokens=1, output_tokens=1, adapter=name)
        for at, name in enumerate([None, "fr"] * 10)
    ]

    assert [one.adapter for one in assign_adapters(trace, "trace", seed=0)] == ["ann", "fr"] * 10
    spread = [[one.adapter for one in assign_adapters(trace, "uniform", seed=seed)] for seed in (1, 1, 2)]
    assert spread[0] == spread[1] != spread[2]


def test_an_unknown_policy_lists_those_that_are_known():
    with pytest.raises(UsageFault, match="punica"):
        make_router("nearest")
