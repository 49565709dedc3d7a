"""VTC against a transcription of the paper, and its own promises: the lift, forgetting, settling, snapshots."""

import pytest
from fair_driving import admissions, works
from fair_transcription import Transcription
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsys.fair_queue.policy import (
    A10G_LLAMA2_7B,
    LinearCost,
    MovingAverage,
    Oracle,
    Request,
    TokenBilling,
    VirtualTokenCounter,
    create,
)

MEMORY = 60


def request(name, tenant="a", prompt=1, output=1):
    return Request(name, tenant, prompt, output)


def one():
    """Room for one request."""
    left = iter([True])
    return lambda _: next(left, False)


def serve(policy, *names):
    """Admit what is due and finish these requests after their last token."""
    policy.admit(0.0, lambda _: True)
    for name, tokens in names:
        policy.tokens(name, tokens, 0.0)
        policy.finish(name, 0.0)


@settings(max_examples=500, deadline=None)
@given(works(), st.sampled_from([(1.0, 2.0), (3.0, 1.0), (0.0, 1.0)]), st.integers(24, 90))
def test_admits_in_the_order_of_the_transcription(work, prices, memory):
    wp, wq = prices

    expected = admissions(Transcription(wp=wp, wq=wq), work, memory=memory)

    assert expected == admissions(VirtualTokenCounter(billing=TokenBilling(LinearCost(wp, wq))), work, memory=memory)


@settings(max_examples=100, deadline=None)
@given(works())
def test_weights_divide_every_charge_as_in_the_transcription(work):
    weights = {"a": 2.0, "b": 4.0, "c": 0.5}

    expected = admissions(Transcription(weights=weights), work, memory=MEMORY)

    assert expected == admissions(create("vtc", weights), work, memory=MEMORY)


@settings(max_examples=100, deadline=None)
@given(works())
def test_least_counter_first_is_the_transcription_without_its_lift(work):
    expected = admissions(Transcription(lift=False), work, memory=MEMORY)

    assert expected == admissions(create("lcf"), work, memory=MEMORY)


@settings(max_examples=200, deadline=None)
@given(works())
def test_forgetting_idle_tenants_changes_nothing(work):
    remembering = admissions(VirtualTokenCounter(forget=False), work, memory=MEMORY)

    assert remembering == admissions(VirtualTokenCounter(forget=True), work, memory=MEMORY)


@settings(max_examples=100, deadline=None)
@given(works())
def test_rebasing_counters_changes_nothing(work):
    rebasing = VirtualTokenCounter(rebase_at=16.0)

    assert admissions(VirtualTokenCounter(), work, memory=MEMORY) == admissions(rebasing, work, memory=MEMORY)


def test_rebasing_keeps_counters_small_and_a_new_tenant_of_lcf_at_its_place():
    lcf = create("lcf")
    lcf._rebase_at = 100.0
    for number in range(50):
        lcf.arrive(request(f"r{number}", "a", prompt=10), 0.0)
        serve(lcf, (f"r{number}", 0))
    counters_before = lcf.counters["a"]
    lcf.arrive(request("late", "b"), 0.0)

    assert counters_before - lcf.counters["b"] == 500.0


def test_forgets_those_whom_the_queue_has_passed():
    policy = VirtualTokenCounter()
    for number in range(1000):
        policy.arrive(request(f"r{number}", f"tenant-{number}"), 0.0)
        serve(policy, (f"r{number}", 1))

    assert len(policy.counters) <= 2


def test_a_tenant_that_joins_a_queue_is_lifted_to_its_least_counter():
    policy = create("vtc")
    policy.arrive(request("first", "busy", prompt=100), 0.0)
    serve(policy, ("first", 10))
    policy.arrive(request("second", "busy"), 0.0)
    policy.arrive(request("new", "idle"), 0.0)

    assert policy.counters == {"busy": 120.0, "idle": 120.0}


def test_a_tenant_that_joins_an_empty_queue_is_lifted_to_the_last_that_left_it():
    policy = create("vtc")
    policy.arrive(request("first", "busy", prompt=100), 0.0)
    policy.admit(0.0, lambda _: True)
    policy.tokens("first", 10, 0.0)
    policy.arrive(request("new", "idle"), 0.0)

    assert policy.counters["idle"] == 120.0


def test_an_hour_of_idling_earns_nothing():
    policy = create("vtc")
    for number in range(20):
        policy.arrive(request(f"busy{number}", "busy", prompt=10), 0.0)
    for _ in range(10):
        policy.admit(0.0, one())
    for number in range(10):
        policy.arrive(request(f"idle{number}", "idle", prompt=10), 3600.0)
    order = [policy.admit(3600.0, one())[0].tenant for _ in range(10)]

    assert order == ["busy", "idle"] * 5


def test_the_first_request_that_does_not_fit_ends_the_admission():
    policy = create("vtc")
    policy.arrive(request("large", "a", prompt=100), 0.0)
    policy.arrive(request("small", "b", prompt=1), 0.0)
    policy.arrive(request("ahead", "a", prompt=1), 0.0)

    assert policy.admit(0.0, lambda r: r.prompt_tokens < 50) == []


@pytest.mark.parametrize("predictor", [None, MovingAverage(), Oracle(), Oracle(spread=0.5, seed=3)])
@pytest.mark.parametrize("cost", [LinearCost(), LinearCost(0.1, 0.7), A10G_LLAMA2_7B])
@given(outputs=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 30), st.booleans()), min_size=1, max_size=20))
def test_when_all_have_ended_the_counter_is_the_exact_service(predictor, cost, outputs):
    policy = VirtualTokenCounter(billing=TokenBilling(cost), weights={"a": 3.0}, predictor=predictor, forget=False)
    exact = 0.0
    for number, (prompt, output, cancelled) in enumerate(outputs):
        policy.arrive(request(f"r{number}", "a", prompt, 12), 0.0)
        policy.admit(0.0, lambda _: True)
        policy.tokens(f"r{number}", output, 0.0)
        (policy.cancel if cancelled else policy.finish)(f"r{number}", 0.0)
        exact += cost(prompt, output) / 3.0

    assert policy.counters["a"] == pytest.approx(exact, rel=1e-9, abs=1e-9)


def test_a_prediction_is_charged_at_admission_and_only_tokens_past_it_after():
    policy = create("vtc:predict=oracle")
    policy.arrive(request("r", prompt=10, output=4), 0.0)
    policy.admit(0.0, lambda _: True)
    charged = [policy.counters["a"]]
    for _ in range(5):
        policy.tokens("r", 1, 0.0)
        charged.append(policy.counters["a"])

    assert charged == [18.0, 18.0, 18.0, 18.0, 18.0, 20.0]


def test_the_moving_average_starts_with_the_first_length_then_weighs_the_past_four_to_one():
    guesses = MovingAverage()
    first = guesses.guess(request("r"))
    guesses.learn(request("r"), 100)
    second = guesses.guess(request("r"))
    guesses.learn(request("r"), 50)

    assert (first, second, guesses.guess(request("r"))) == (0.0, 100.0, 90.0)


def test_a_spread_oracle_stays_within_half_of_the_truth_and_does_not_depend_on_order():
    oracle = Oracle(spread=0.5, seed=1)
    guesses = [oracle.guess(request(f"r{number}", output=100)) for number in range(500)]

    assert 50 <= min(guesses) < 55
    assert 145 < max(guesses) <= 150
    assert guesses[7] == Oracle(spread=0.5, seed=1).guess(request("r7", output=100))


def test_preempted_work_is_not_charged_again():
    policy = create("vtc")
    policy.arrive(request("r", prompt=10), 0.0)
    policy.admit(0.0, lambda _: True)
    policy.tokens("r", 3, 0.0)
    policy.preempted("r", 0.0)
    policy.arrive(request("behind"), 0.0)
    again = policy.admit(0.0, lambda _: True)

    assert [admitted.id for admitted in again] == ["r", "behind"]
    assert policy.counters["a"] == 10 + 6 + 1


def test_a_client_that_leaves_the_queue_pays_nothing():
    policy = create("vtc")
    policy.arrive(request("stays", prompt=5), 0.0)
    policy.arrive(request("leaves", "b", prompt=50), 0.0)
    policy.cancel("leaves", 0.0)

    assert [admitted.id for admitted in policy.admit(0.0, lambda _: True)] == ["stays"]
    assert policy.counters.get("b", 0.0) == 0.0


def test_a_tenant_that_was_forgotten_while_its_entry_is_in_the_heap_can_come_back():
    policy = create("vtc")
    policy.arrive(request("stays", "b"), 0.0)
    policy.arrive(request("leaves", "a"), 0.0)
    policy.cancel("leaves", 0.0)
    assert "a" not in policy.counters
    policy.arrive(request("again", "a"), 0.0)

    assert [one.id for one in policy.admit(0.0, lambda _: True)] == ["stays", "again"]
