"""The stepwise simulator's own promises, and the compiled one held against it."""

import itertools

import numpy as np
import pytest
from fair_driving import works
from fair_logs import PLAIN, log_of, record, records_of
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsys.fair_queue.policy import create
from llmsys.fair_queue.sim import Hardware, Machine, peak_tokens, run, simulate_stepwise, workload_of
from llmsys.fair_queue.sim.run import meta_event

COMPILED = [
    "vtc",
    "lcf",
    "fcfs",
    "rpm=3",
    "vtc:predict=oracle",
    "vtc:predict=ema",
    "vtc:predict=oracle50",
    "vtc:wp=3,wq=1",
]
STEPWISE = ["drr:quantum=20", "tpm=600", "vtc:cost=profile"]
HOST_BOUND = Hardware(p0=1.0, p1=0.0, d0=0.5, d1=0.125, d2=0.0625, floor=2.0)
UNEVEN = Hardware(p0=0.75, p1=0.125, d0=0.5, d1=0.0625, d2=0.015625)  # sums of these are exact


def columns(result):
    return result.admit_s, result.first_s, result.finish_s, result.refused


@pytest.mark.parametrize("spec", COMPILED)
@pytest.mark.parametrize("reserve", ["sum", "peak"])
@settings(max_examples=60, deadline=None)
@given(
    work=works(),
    admit_every=st.sampled_from([1, 3, 10]),
    memory=st.integers(26, 90),
    hardware=st.sampled_from([PLAIN, UNEVEN, HOST_BOUND]),
)
def test_the_compiled_simulator_repeats_the_stepwise_one(spec, reserve, work, admit_every, memory, hardware):
    trace = workload_of(records_of(work))
    machine = Machine(memory=memory, max_batch=4, max_prefill=20, admit_every=admit_every, reserve=reserve)
    expected = simulate_stepwise(trace, lambda: create(spec), hardware, machine)
    found = run(trace, spec, hardware, machine=machine)

    assert expected.order == found.order
    for ours, theirs in zip(columns(expected), columns(found), strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=1e-12, atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(works(tenants=3))
def test_weights_reach_the_compiled_simulator(work):
    weights = {"a": 2.0, "b": 0.5}
    trace, machine = workload_of(records_of(work)), Machine(memory=40, admit_every=1)
    expected = simulate_stepwise(trace, lambda: create("vtc", weights), PLAIN, machine)

    assert expected.order == run(trace, "vtc", PLAIN, machine=machine, weights=weights).order


@pytest.mark.parametrize("spec", [*COMPILED, *STEPWISE])
@pytest.mark.parametrize("reserve", ["sum", "peak", "paged"])
@settings(max_examples=25, deadline=None)
@given(work=works(requests=30))
def test_every_request_that_is_not_refused_is_served_in_order_of_time(spec, reserve, work):
    result = run(records_of(work), spec, PLAIN, machine=Machine(memory=40, reserve=reserve))
    served, output = ~result.refused, result.workload.output

    assert (~np.isnan(result.finish_s) == served).all()
    assert (result.admit_s[served] >= result.workload.arrival[served]).all()
    assert (result.finish_s[served] > result.admit_s[served]).all()
    assert (np.isnan(result.first_s) == (result.refused | (output == 0))).all()


@pytest.mark.parametrize("reserve", ["sum", "peak", "paged"])
@settings(max_examples=60, deadline=None)
@given(work=works(requests=40))
def test_memory_is_never_overrun_and_every_token_is_made_once(reserve, work):
    events = log_of(records_of(work), memory=30, reserve=reserve)
    held, made, most = {}, {}, 0
    prompt = {item.request.id: item.request.prompt_tokens for item in work}
    for _, instant in itertools.groupby(events[1:], key=lambda event: event.t_s):
        for event in instant:
            if event.event == "admit":
                held[event.id] = prompt[event.id] + made.get(event.id, 0)
            if event.event == "token":
                held[event.id] += event.n
                made[event.id] = made.get(event.id, 0) + event.n
            if event.event in ("finish", "preempt"):
                del held[event.id]
        most = max(most, sum(held.values()))

    assert most <= 30
    assert made == {item.request.id: item.request.max_tokens for item in work if item.request.max_tokens}


@settings(max_examples=60, deadline=None)
@given(works(requests=40), st.sampled_from([1, 3]))
def test_no_admission_is_due_that_leaves_out_a_first_request_that_fits(work, admit_every):
    """Work conservation: after an admission was due, the request VTC would take next does not fit."""
    memory, reserved, waiting, running, steps = 40, 0, [], 0, 0
    needs = {item.request.id: item.request.prompt_tokens + item.request.max_tokens for item in work}
    events = log_of(records_of(work), "fcfs", memory=memory, admit_every=admit_every)
    for _, instant in itertools.groupby(events[1:], key=lambda event: event.t_s):
        was_running = running
        for event in instant:
            if event.event == "arrive":
                waiting.append(event.id)
            if event.event == "admit":
                waiting.remove(event.id)
                reserved, running = reserved + needs[event.id], running + 1
            if event.event == "finish":
                reserved, running = reserved - needs[event.id], running - 1
        assert reserved <= memory
        steps = 0 if running > was_running else steps + 1
        if waiting and running == 0:
            assert needs[waiting[0]] > memory


def test_prefill_stalls_decoding_and_gives_the_first_token():
    hardware = Hardware(p0=10.0, p1=1.0, d0=2.0, d1=0.5, d2=0.25)
    trace = workload_of([record("x", "a", 5.0, 4, 3)])
    result = run(trace, "vtc", hardware, machine=Machine())

    assert result.admit_s[0] == 5.0
    assert result.first_s[0] == 5.0 + 10.0 + 4.0
    # two decode steps of one request that holds 5, then 6 tokens
    assert result.finish_s[0] == 19.0 + (2.5 + 0.25 * 5) + (2.5 + 0.25 * 6)


def test_admission_waits_for_its_period_while_something_runs():
    trace = [record("x", "a", 0.0, 1, 50), record("y", "b", 1.5, 1, 1)]
    result = run(trace, "vtc", PLAIN, machine=Machine(admit_every=10))

    assert result.admit_s[1] == 1.0 + 10.0


def test_a_request_that_fits_no_empty_machine_is_refused():
    result = run([record("large", "a", 0.0, 50, 51), record("small")], "vtc", PLAIN, machine=Machine(memory=100))

    assert result.refused.tolist() == [True, False]


def test_requests_without_output_end_at_their_prefill():
    result = run([record("x", output=0)], "vtc", PLAIN)

    assert np.isnan(result.first_s[0])
    assert result.finish_s[0] == 1.0


def test_paged_memory_preempts_and_still_ends():
    trace = [record(f"r{n}", "ab"[n % 2], 0.0, 2, 12) for n in range(6)]
    events = log_of(trace, memory=20, reserve="paged")

    assert any(event.event == "preempt" for event in events)
    assert sum(event.event == "finish" for event in events) == 6


def test_a_token_limit_holds_requests_until_its_bucket_fills():
    trace = [record("x", "a", 0.0, 60, 1), record("y", "a", 0.0, 60, 1)]
    result = run(trace, "tpm=60", PLAIN)

    assert result.admit_s[0] == 0.0
    assert result.admit_s[1] == pytest.approx(1.0 + 0.01 + 0.0, abs=2.0)


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=1, max_size=12))
def test_peak_tokens_is_the_most_held_when_requests_end_one_after_the_other(pairs):
    held = [list(pair) for pair in pairs]
    most = sum(mine for mine, _ in held)
    while held:
        held = [[mine + 1, left - 1] for mine, left in held if left > 0]
        most = max(most, sum(mine for mine, _ in held))

    assert most == peak_tokens(pairs)


@given(st.integers(0, 30), st.integers(0, 30), st.sampled_from(["sum", "peak", "paged"]))
def test_a_machine_judges_one_request_as_it_judges_many(prompt, output, reserve):
    machine = Machine(memory=30, reserve=reserve)
    alone = peak_tokens([(prompt + 1, max(output - 1, 0))]) < 30 if reserve == "peak" else prompt + output <= 30

    assert machine.holds(prompt, output) == alone
    assert machine.holds_each(np.array([prompt]), np.array([output])).tolist() == [alone]


def test_an_empty_trace_takes_no_time():
    result = run([], "vtc", PLAIN)

    assert result.makespan_s == 0.0
    assert len(result.ttft_s) == 0


@pytest.mark.parametrize(
    ("trace", "message"),
    [
        ([record("x"), record("x")], "'x' comes twice"),
        ([record("x", at_s=1.0), record("y", at_s=0.5)], "not in order of arrival"),
    ],
)
def test_a_trace_that_cannot_be_simulated_says_why(trace, message):
    with pytest.raises(ValueError, match=message):
        run(trace, "vtc", PLAIN)


def test_a_machine_names_what_it_cannot_be():
    with pytest.raises(ValueError, match="reserve is 'all'; expected one of sum, peak, paged"):
        Machine(reserve="all")
    with pytest.raises(ValueError, match="sizes of at least 1"):
        Machine(memory=0)


def test_the_meta_record_carries_the_rules_that_the_audit_needs():
    meta = meta_event("vtc:wp=3,wq=1", Machine(memory=77, reserve="peak"), {"a": 2.0})

    assert (meta.prompt_weight, meta.output_weight, meta.memory) == (3.0, 1.0, 77)
    assert (meta.reserve, meta.weights, meta.clock) == ("peak", {"a": 2.0}, "virtual")
