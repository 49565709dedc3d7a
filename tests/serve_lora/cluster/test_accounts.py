"""Every second is in one account, under every rule; options of a cluster are read as they are written."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsys.errors import UsageFault
from llmsys.serve_lora.cluster import (
    IDLE_RULES,
    Accounts,
    ClusterSettings,
    ReplicaProfile,
    parse_limits,
    with_keep_alive,
)
from llmsys.serve_lora.cluster.accounts import PLATFORM
from llmsys.serve_lora.cluster.jobs import Job
from tests.serve_lora.cluster.test_simulation import record

ENTRIES = st.lists(
    st.tuples(st.sampled_from(["step", "idle", "start"]), st.sampled_from("abc"), st.floats(0, 1e6)), max_size=40
)


def booked(entries):
    accounts = Accounts()
    for kind, tenant, seconds in entries:
        getattr(accounts, kind)(tenant, seconds)
    return accounts


@given(entries=ENTRIES, rule=st.sampled_from(IDLE_RULES))
def test_shares_sum_to_what_was_booked_under_every_rule(entries, rule):
    accounts = booked([("step", "a", 1.0), *entries])
    total = 1.0 + math.fsum(seconds for _, _, seconds in entries)

    shares = accounts.shares(rule)

    assert math.fsum(shares.values()) == pytest.approx(total, rel=1e-9)
    assert all(share >= 0 for share in shares.values())


@given(entries=ENTRIES)
def test_an_owner_pays_exactly_what_is_booked_on_it(entries):
    shares = booked(entries).shares("owner")

    for tenant in "abc":
        own = math.fsum(seconds for _, name, seconds in entries if name == tenant)
        assert shares.get(tenant, 0.0) == pytest.approx(own, rel=1e-9)


def test_the_platform_pays_for_idleness_and_starts_and_for_nothing_else():
    accounts = booked([("step", "a", 3.0), ("idle", "a", 2.0), ("start", "b", 5.0)])

    assert accounts.shares("platform") == {"a": 3.0, PLATFORM: 7.0}
    assert booked([("step", "a", 3.0)]).shares("platform") == {"a": 3.0}


def test_spread_is_in_proportion_to_what_was_computed():
    accounts = booked([("step", "a", 3.0), ("step", "b", 1.0), ("idle", "b", 4.0)])

    assert accounts.shares("spread") == pytest.approx({"a": 6.0, "b": 2.0})


@pytest.mark.parametrize(("spec", "limits"), [("1", [1]), ("1-4", [1, 2, 3, 4]), ("1,2,8", [1, 2, 8])])
def test_limits_are_read_as_they_are_written(spec, limits):
    assert parse_limits(spec) == limits


@pytest.mark.parametrize("spec", ["", "0", "4-1", "a", "1-", "-3", "1,,2", "5000"])
def test_limits_that_are_none_are_refused(spec):
    with pytest.raises(UsageFault):
        parse_limits(spec)


def test_a_keep_alive_is_seconds_or_what_a_start_costs():
    profile, settings = ReplicaProfile(cold_start_s=4.5), ClusterSettings(2)

    kept = [with_keep_alive(settings, spec, profile).keep_alive_s for spec in ("ski-rental", "2.5", "inf")]

    assert kept == [4.5, 2.5, math.inf]
    for spec in ("", "-1", "nan", "later"):
        with pytest.raises(UsageFault, match="--keep-alive"):
            with_keep_alive(settings, spec, profile)


@given(
    gaps=st.lists(st.floats(0.01, 100), min_size=1, max_size=30),
    start_s=st.floats(0.1, 20),
)
def test_ski_rental_costs_at_most_twice_what_perfect_foresight_would(gaps, start_s):
    """Per gap: keep for a start's time, then pay a start; foresight pays the smaller of gap and start."""
    kept = sum(min(gap, start_s) + (start_s if gap > start_s else 0.0) for gap in gaps)
    best = sum(min(gap, start_s) for gap in gaps)

    assert kept <= 2 * best * (1 + 1e-12)


@given(prompt=st.integers(0, 50), output=st.integers(0, 30), steps=st.integers(0, 30))
def test_a_job_counts_its_tokens(prompt, output, steps):
    job = Job(record(0, 0.0, prompt, output, adapter="x"), 0, "x")
    job.computed = job.known
    job.produced = min(steps, job.remaining)

    assert job.known == max(prompt, 1) + job.produced
    assert job.remaining == max(output, 1) - job.produced >= 0
    assert job.pending == job.produced


def test_a_row_is_decoding_only_behind_its_first_token_and_merged_weights_need_no_adapter():
    job = Job(record(0, 0.0, 5, 4, adapter="x"), 0, "x")
    prefill = job.row(5, rank=8, merged=False)
    job.computed, job.produced = 5, 1
    decode, merged = job.row(1, rank=8, merged=False), job.row(1, rank=8, merged=True)

    assert (prefill.prefill_tokens, prefill.decode_tokens, prefill.context_tokens) == (5, 0, 5)
    assert (decode.prefill_tokens, decode.decode_tokens, decode.context_tokens, decode.rank) == (0, 1, 6, 8)
    assert (merged.adapter, merged.rank) == ("", 0)
