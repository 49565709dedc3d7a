"""Work conservation as the audit sees it: what fitted and was not admitted, and what excuses a wait."""

import pytest
from fair_driving import works
from fair_logs import log_of, record, records_of
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsys.artifacts import Event, encode, read_events
from llmsys.fair_queue.audit import check, check_file


def slow_to_admit(*, memory=100, waits=50, max_batch=0, admit_every=1):
    """One request decodes from 1 s on, a token a second; another of `waits` tokens arrives at 2.5 s, starts at 8 s."""
    events = [Event(0.0, "meta", reserve="sum", memory=memory, max_batch=max_batch, admit_every=admit_every)]
    events += [Event(1.0, "arrive", "runs", "a", 20, 10), Event(1.0, "admit", "runs", "a", 0, 10)]
    for second in range(2, 12):
        if second == 3:
            events.append(Event(2.5, "arrive", "waits", "b", 0, waits))
        events.append(Event(float(second), "token", "runs", "a", 1))
        if second == 8:
            events.append(Event(8.0, "admit", "waits", "b", 0, waits))
    return events


def test_steps_that_pass_while_a_request_fits_are_idle_time():
    verdict = check(slow_to_admit())

    # from the step that ended at 3 s, the first after the arrival, until the admission
    assert (verdict.idle_violations, verdict.idle_s) == (1, 5.0)


@pytest.mark.parametrize("excuse", [{"waits": 71}, {"max_batch": 1}, {"admit_every": 20}, {"memory": 0}])
def test_no_room_a_full_batch_or_an_admission_that_is_not_due_excuse_a_wait(excuse):
    verdict = check(slow_to_admit(**excuse))

    assert (verdict.idle_violations, verdict.idle_s) == (0, 0.0)


def test_a_request_of_exactly_the_room_fits():
    assert check(slow_to_admit(waits=70)).idle_s == 5.0


def test_one_waiting_request_that_does_not_fit_excuses_the_others():
    events = slow_to_admit()
    events.insert(3, Event(1.5, "arrive", "large", "c", 0, 90))

    assert check(events).idle_s == 0.0


@settings(max_examples=60, deadline=None)
@given(
    works(requests=30),
    st.sampled_from(["vtc", "fcfs", "drr:quantum=9", "dlpm:quantum=9", "justitia", "equinox", "edf", "priority"]),
    st.sampled_from(["sum", "peak", "paged"]),
    st.sampled_from([1, 4, 10]),
)
def test_no_policy_leaves_fitting_work_waiting(work, spec, reserve, admit_every):
    verdict = check(log_of(records_of(work), spec, memory=40, reserve=reserve, admit_every=admit_every))

    assert verdict.idle_violations == 0


def test_a_policy_that_holds_back_is_not_work_conserving():
    trace = [record(f"r{n}", "a", 0.0, 30, 5) for n in range(4)] + [record("other", "b", 0.0, 1, 30)]

    assert check(log_of(trace, "tpm=20", memory=400)).idle_s > 1.0


def test_prompts_may_cost_nothing(tmp_path):
    events = log_of([record("x", "a", 0.0, 10, 5)], "vtc:wp=0,wq=1", wp=0.0, wq=1.0, memory=60)
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"".join(map(encode, events)))

    assert next(read_events(path)).prompt_weight == 0.0
    assert check_file(path).tenants["a"].service == 5.0


def test_cached_tokens_count_at_the_price_that_the_policy_names():
    def service(spec):
        events = [Event(0.0, "meta", policy=spec), Event(0.0, "arrive", "x", "a", 1, 100)]
        events += [Event(1.0, "admit", "x", "a", 0, 100, 40), Event(2.0, "token", "x", "a", 1)]
        return check(events).tenants["a"].service

    assert [service(spec) for spec in ("vtc", "vtc:cached=0.25", "dlpm")] == [102.0, 72.0, 62.0]
