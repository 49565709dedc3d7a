"""The paper's statements as properties of logs: they hold for VTC, are nearly reached, and fail for what is unfair."""

import pytest
from fair_driving import works
from fair_logs import log_of, record, records_of
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsys.fair_queue.audit import check

MEMORY = 60
U = 2.0 * MEMORY
PRICES = [(1.0, 2.0), (3.0, 1.0), (0.0, 1.0)]
VARIANTS = ["vtc:predict=oracle", "vtc:predict=oracle50", "vtc:predict=ema", "drr:quantum=10", "drr:quantum=40"]
SAME_BOUND = ["edf:ttft=3", "slo:ttft=3,tpot=0.5", "fairbatch:tbt=4", "dlpm:quantum=10"]


def statement(report, text):
    return next(one for one in report.checks if text in one.statement)


def flood(tenant, count, at_s=0.0, prompt=5, output=20):
    return [record(f"{tenant}{number}", tenant, at_s, prompt, output) for number in range(count)]


@settings(max_examples=150, deadline=None)
@given(works(requests=40), st.sampled_from(PRICES), st.sampled_from([1, 4]))
def test_vtc_holds_every_bound_by_the_log_and_by_the_paper(work, prices, admit_every):
    wp, wq = prices
    events = log_of(records_of(work), f"vtc:wp={wp},wq={wq}", wp=wp, wq=wq, memory=MEMORY, admit_every=admit_every)
    by_log, by_paper = check(events), check(events, bound="paper")

    assert by_log.holds, by_log.checks
    assert by_paper.holds, by_paper.checks
    assert by_log.U_log <= by_paper.U_star
    assert by_log.idle_violations == 0


@settings(max_examples=80, deadline=None)
@given(works(requests=40, tenants=4))
def test_weighted_vtc_holds_the_bounds_over_its_least_weight(work):
    weights = {"a": 3.0, "b": 0.5}
    events = log_of(records_of(work), weights=weights, memory=MEMORY)

    assert check(events).holds
    assert check(events, bound="paper").holds


@pytest.mark.parametrize("spec", VARIANTS)
@settings(max_examples=60, deadline=None)
@given(work=works(requests=40))
def test_each_variant_holds_its_own_bound_which_is_marked_as_empirical(spec, work):
    report = check(log_of(records_of(work), spec, memory=MEMORY))

    assert report.holds, report.checks
    assert report.empirical == (report.bound > 2 * report.U_log)


@pytest.mark.parametrize("spec", SAME_BOUND)
@settings(max_examples=40, deadline=None)
@given(work=works(requests=40))
def test_any_order_inside_a_tenant_and_any_batch_keep_vtcs_bounds(spec, work):
    report = check(log_of(records_of(work), spec, memory=MEMORY))

    assert report.holds, report.checks


@pytest.mark.parametrize("reserve", ["sum", "peak", "paged"])
@settings(max_examples=60, deadline=None)
@given(work=works(requests=40))
def test_the_bound_of_the_log_holds_whatever_the_admission_reserves(reserve, work):
    report = check(log_of(records_of(work), memory=MEMORY, reserve=reserve))

    assert report.holds, report.checks


def test_equal_prices_make_u_and_u_star_one():
    report = check(log_of(flood("a", 5) + flood("b", 5), memory=MEMORY))

    assert report.U == report.U_star == U


def test_dear_prompts_make_u_star_larger_than_the_papers_u():
    report = check(log_of(flood("a", 5) + flood("b", 5), "vtc:wp=3,wq=1", wp=3.0, wq=1.0, memory=MEMORY))

    assert report.U == MEMORY
    assert report.U_star == MEMORY + 2 * 5


def test_a_tenant_that_fills_memory_before_another_joins_reaches_the_lower_bound():
    memory = 1000
    trace = [record("fill", "f", 0, 1, memory - 1), *flood("f", 4, 0.5), *flood("g", 4, 1.5)]
    report = check(log_of(trace, memory=memory))

    assert statement(report, "both backlogged").worst >= 0.95 * 2.0 * memory
    assert report.holds


def test_admission_by_peak_memory_breaks_the_papers_bound_and_keeps_that_of_the_log():
    memory, k = 10_000, 100
    lengths = [memory // (k - j) - 8 for j in range(k)]
    trace = [record("ahead", "j", 0, k, 1)]
    trace += [record(f"i{number}", "i", 0, 1, length) for number, length in enumerate(lengths)]
    trace += [record(f"{tenant}-more{n}", tenant, 0, 300, 300) for tenant in "ij" for n in range(5)]
    events = log_of(trace, memory=memory, reserve="peak", admit_every=10)
    by_log, by_paper = check(events), check(events, bound="paper")

    assert statement(by_paper, "both backlogged").worst > 2 * by_paper.U
    assert not by_paper.holds
    assert statement(by_log, "counters in the queue").holds
    assert by_log.holds


def test_the_same_requests_under_reserved_sums_keep_the_papers_bound():
    memory, k = 10_000, 100
    trace = [record("ahead", "j", 0, k, 1)]
    trace += [record(f"i{j}", "i", 0, 1, memory // (k - j) - 8) for j in range(k)]
    trace += [record(f"j{n}", "j", 0, 300, 300) for n in range(5)]

    assert check(log_of(trace, memory=memory, admit_every=10), bound="paper").holds


def test_first_come_first_served_fails_under_a_flood():
    trace = flood("greedy", 200) + [record(f"m{n}", "modest", n, 5, 20) for n in range(20)]
    report = check(log_of(sorted(trace, key=lambda one: one.arrival_s), "fcfs", memory=MEMORY))

    assert not report.holds
    assert not statement(report, "both backlogged").holds
    assert not statement(report, "f backlogged").holds


def test_least_counter_first_fails_when_a_tenant_comes_back_with_savings():
    trace = [record("hello", "idler"), *flood("worker", 120), *flood("idler", 60, 400.0)]
    report = check(log_of(trace, "lcf", memory=MEMORY))

    assert not statement(report, "both backlogged").holds
    assert not statement(report, "f backlogged").holds


def test_vtc_gives_the_same_returning_tenant_no_more_than_its_share():
    trace = [record("hello", "idler"), *flood("worker", 120), *flood("idler", 60, 400.0)]

    assert check(log_of(trace, "vtc", memory=MEMORY)).holds
