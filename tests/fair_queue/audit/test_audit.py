"""The audit against brute force, against forgery, and on logs that make no sense."""

import gzip

import msgspec
import pytest
from fair_driving import works
from fair_logs import brute_force, coarse, log_of, record, records_of
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsys.artifacts import Event, encode
from llmsys.errors import BadInput, UsageFault
from llmsys.fair_queue.audit import check, check_file, jain_index, report
from llmsys.fair_queue.audit.columns import columns_of
from llmsys.fair_queue.audit.pair import worst_gap
from llmsys.fair_queue.audit.scan import Costs

MEMORY = 60


def worst(verdict):
    return [one.worst for one in verdict.checks[:2]]


def events_of(*rows):
    """Events from (time, kind, id, tenant, n) after a meta record."""
    return [Event(0.0, "meta"), *(Event(float(t), kind, name, tenant, n, 4) for t, kind, name, tenant, n in rows)]


@settings(max_examples=120, deadline=None)
@given(
    works(requests=10, tenants=3, longest=6), st.sampled_from(["vtc", "fcfs", "lcf"]), st.sampled_from(["sum", "paged"])
)
def test_one_pass_finds_what_brute_force_over_all_intervals_finds(work, spec, reserve):
    events = log_of(records_of(work), spec, weights={"a": 2.0}, memory=14, reserve=reserve)

    assert worst(check(events)) == pytest.approx(brute_force(events))


@settings(max_examples=60, deadline=None)
@given(works(requests=25, tenants=4), st.sampled_from(["vtc", "fcfs"]))
def test_the_worst_pairs_interval_holds_the_gap_that_is_reported(work, spec):
    events = log_of(records_of(work), spec, memory=MEMORY)
    verdict = check(events)
    if verdict.worst_interval is not None:
        columns = columns_of(events)
        f, g = (columns.tenants.index(name) for name in verdict.worst_pair)
        weight = columns.prompt[: len(columns.tenants)] * 0 + 1.0
        alone = worst_gap(columns, f, g, Costs(columns.prompt, 2.0 * weight, weight))
        assert alone.gap == pytest.approx(verdict.worst_gap)
        assert verdict.worst_interval == (alone.from_s, alone.to_s)
        assert alone.from_s <= alone.to_s


@settings(max_examples=60, deadline=None)
@given(works(requests=25, tenants=4), st.integers(2, 7))
def test_a_coarse_log_gives_gaps_that_contain_the_exact_ones(work, every):
    exact = log_of(records_of(work), memory=MEMORY)
    blurred = check(coarse(exact, every))

    for fine, rough in zip(worst(check(exact)), worst(blurred), strict=True):
        assert abs(fine - rough) <= blurred.tolerance
    assert blurred.holds, blurred.checks


def forged(events):
    """The log in which, at the first admission that had a choice, another tenant's request went instead."""
    counters, waiting = {}, {}
    for number, event in enumerate(events):
        if event.event == "arrive":
            waiting.setdefault(event.tenant, []).append(event.id)
        if event.event == "admit":
            others = [t for t, ids in waiting.items() if ids and t != event.tenant and counters.get(t, 0) > 20]
            if others:
                return _swapped(events, number, event.id, waiting[others[0]][0])
            waiting[event.tenant].remove(event.id)
            counters[event.tenant] = counters.get(event.tenant, 0) + event.prompt_tokens
    raise AssertionError("no admission had a choice")


def _swapped(events, number, mine, theirs):
    owner = {event.id: event.tenant for event in events}
    other = {mine: theirs, theirs: mine}
    names = [other.get(event.id, event.id) for event in events[number:]]
    late = [
        msgspec.structs.replace(event, id=name, tenant=owner[name])
        for event, name in zip(events[number:], names, strict=True)
    ]
    return events[:number] + late


def test_one_forged_admission_is_caught():
    trace = [record(f"{tenant}{n}", tenant, 0, 10, 10) for n in range(20) for tenant in "abc"]
    honest = log_of(trace, memory=200)

    assert check(honest).holds
    assert not check(forged(honest)).holds


def test_a_log_of_another_policy_that_calls_itself_vtc_is_caught():
    trace = [record(f"a{n}", "a", 0, 5, 20) for n in range(20)] + [record(f"b{n}", "b", 1, 5, 20) for n in range(20)]
    events = log_of(trace, "fcfs", memory=MEMORY)
    lying = [msgspec.structs.replace(events[0], policy="vtc"), *events[1:]]

    assert not check(lying).holds


def test_a_request_that_fits_nowhere_is_counted_as_rejected():
    verdict = check(log_of([record("large", prompt=1000)], memory=MEMORY))

    assert verdict.rejected == 1
    assert verdict.holds


def test_idle_time_with_work_waiting_is_counted():
    events = events_of((1, "arrive", "x", "a", 0), (5, "admit", "x", "a", 0), (6, "finish", "x", "a", 0))
    verdict = check(events)

    assert verdict.idle_violations == 1
    assert verdict.idle_s == 4.0


def test_an_empty_log_is_fair():
    assert check([Event(0.0, "meta")]).holds


def test_tenants_are_reported_with_service_share_and_waits():
    events = events_of(
        (0, "arrive", "x", "a", 0),
        (0, "arrive", "y", "b", 0),
        (1, "admit", "x", "a", 0),
        (2, "token", "x", "a", 1),
        (3, "token", "x", "a", 3),
        (3, "finish", "x", "a", 0),
        (7, "cancel", "y", "b", 0),
    )
    verdict = check(events)

    assert verdict.tenants["a"].service == 4 + 2 * 4
    assert verdict.tenants["a"].share == 1.0
    assert verdict.tenants["a"].ttft_s == (2.0, 2.0, 2.0)
    assert verdict.tenants["a"].latency_s == (3.0, 3.0, 3.0)
    assert verdict.tenants["b"].longest_wait_s == 7.0
    assert verdict.tenants["b"].ttft_s == (None, None, None)
    assert verdict.tenants["b"].backlogged_s == 7.0


def test_jains_index_runs_from_one_share_to_one_over_n():
    import numpy as np

    assert jain_index(np.array([3.0, 3.0, 3.0])) == pytest.approx(1.0)
    assert jain_index(np.array([5.0, 0.0, 0.0, 0.0])) == pytest.approx(0.25)


def test_prices_can_be_other_than_the_logs():
    events = log_of([record("x", "a", 0, 10, 5), record("y", "b", 0, 10, 5)], memory=MEMORY)

    assert check(events, wp=0.0, wq=1.0).tenants["a"].service == 5.0


def test_more_tenants_than_pairs_are_judged_by_the_largest_and_it_says_so(monkeypatch):
    monkeypatch.setattr(report, "PAIRS_AMONG", 2)
    trace = [record(f"{tenant}{n}", tenant, 0, 5, 5) for n in range(4) for tenant in "abc"] + [
        record("z", "z", 0, 1, 0)
    ]
    verdict = check(log_of(trace, memory=30))

    assert len(verdict.tenants) == 2
    assert "z" not in verdict.tenants
    assert "pairs among the 2 tenants with most service, of 4" in verdict.warnings


def test_the_papers_bound_needs_the_memory():
    with pytest.raises(UsageFault, match="--bound paper needs the memory"):
        check([Event(0.0, "meta")], bound="paper")


SENSELESS = [
    ([("admit", "x", 1)], "admit of 'x', which did not arrive; expected an arrive before it"),
    ([("arrive", "x", 1), ("token", "x", 2)], "token of 'x', which waits; expected an admit before it"),
    (
        [("arrive", "x", 1), ("admit", "x", 2), ("admit", "x", 3)],
        "admit of 'x', which runs; expected one admit per arrive",
    ),
    ([("arrive", "x", 1), ("arrive", "x", 2)], "a second arrive of 'x'"),
    ([("arrive", "x", 1), ("admit", "x", 2), ("finish", "x", 2), ("token", "x", 3)], "token of 'x', which has ended"),
    ([("arrive", "x", 2), ("admit", "x", 1)], "t_s 1.0 after t_s 2.0; expected events in order of time"),
]


@pytest.mark.parametrize(("rows", "message"), SENSELESS)
def test_a_log_that_makes_no_sense_is_refused_at_its_line(rows, message, tmp_path):
    log = tmp_path / "events.jsonl"
    log.write_bytes(b"".join(map(encode, events_of(*((t, kind, name, "a", 1) for kind, name, t in rows)))))

    with pytest.raises(BadInput) as raised:
        check_file(log)
    assert f"{log}:{len(rows) + 1}: {message}" in str(raised.value)


def test_a_log_without_meta_is_refused(tmp_path):
    log = tmp_path / "events.jsonl"
    log.write_bytes(encode(Event(0.0, "arrive", "x", "a")))

    with pytest.raises(
        BadInput, match=r"events.jsonl:1: a first record 'arrive'; expected a first record with event 'meta'"
    ):
        check_file(log)


def test_a_cut_last_line_is_reported_and_the_rest_is_audited(tmp_path):
    events = log_of([record("x", "a", 0, 10, 5), record("y", "b", 0, 10, 5)], memory=MEMORY)
    log = tmp_path / "events.jsonl.gz"
    log.write_bytes(gzip.compress(b"".join(map(encode, events)) + encode(events[-1])[:20]))
    verdict = check_file(log)

    assert "last record left out, it is cut off" in verdict.warnings[0]
    assert verdict.tenants == check(events).tenants


def test_a_broken_line_in_the_middle_is_no_crash_and_is_refused(tmp_path):
    events = log_of([record("x")], memory=MEMORY)
    log = tmp_path / "events.jsonl"
    log.write_bytes(encode(events[0]) + b"{oops\n" + encode(events[1]))

    with pytest.raises(BadInput, match=r"events.jsonl:2: "):
        check_file(log)
