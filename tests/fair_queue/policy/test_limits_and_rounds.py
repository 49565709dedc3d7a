"""The baselines: first come first served, its two limits, and deficit round robin."""

from hypothesis import given
from hypothesis import strategies as st

from llmsys.fair_queue.policy import Request, Throttled, create


def arrivals(policy, *tenants, at_s=0.0, prompt=10):
    for number, tenant in enumerate(tenants):
        policy.arrive(Request(f"{tenant}{number}@{at_s}", tenant, prompt, 10), at_s)


def admit(policy, room=1000, at_s=0.0):
    left = iter(range(room))
    return [request.tenant for request in policy.admit(at_s, lambda _: next(left, None) is not None)]


def test_first_come_first_served_looks_at_no_tenant():
    policy = create("fcfs")
    arrivals(policy, "a", "b", "a", "c")

    assert admit(policy, room=2) == ["a", "b"]
    assert admit(policy) == ["a", "c"]


def test_a_preempted_request_is_first_in_line_again():
    policy = create("fcfs")
    arrivals(policy, "a", "b")
    admit(policy, room=1)
    policy.preempted("a0@0.0", 0.0)

    assert admit(policy) == ["a", "b"]


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 20)), max_size=60), st.integers(1, 5))
def test_requests_per_minute_never_accepts_more_and_refuses_nobody_below(rows, limit):
    policy = create(f"rpm={limit}")
    accepted = {"a": [], "b": []}
    now_s = 0.0
    for number, (tenant, gap_s) in enumerate(rows):
        now_s += gap_s
        recent = [at_s for at_s in accepted[tenant] if now_s - at_s <= 60]
        decision = policy.arrive(Request(str(number), tenant, 1, 1), now_s)
        assert decision.accepted == (len(recent) < limit)
        if decision.accepted:
            accepted[tenant].append(now_s)
        else:
            assert recent[0] + 60 == now_s + decision.retry_after_s
    admit(policy)


def test_tokens_per_minute_holds_back_who_has_spent_and_lets_others_pass():
    policy = create("tpm=60")
    arrivals(policy, "a", "a", "b", prompt=100)
    first = admit(policy)
    wake_s = policy.wake_s(0.0)

    assert isinstance(policy, Throttled)
    assert first == ["a", "b"]
    assert 40.0 < wake_s < 40.1
    assert admit(policy, at_s=wake_s - 0.1) == []
    assert admit(policy, at_s=wake_s) == ["a"]


def test_tokens_per_minute_can_refuse_in_place_of_waiting():
    policy = create("tpm:limit=60,over=refuse")
    arrivals(policy, "a", prompt=100)
    admit(policy)
    refused = policy.arrive(Request("late", "a", 1, 1), 0.0)

    assert not refused.accepted
    assert policy.arrive(Request("later", "a", 1, 1), refused.retry_after_s).accepted


@given(st.lists(st.integers(0, 30), min_size=1, max_size=40), st.integers(1, 100))
def test_a_tenant_under_its_token_limit_is_never_held_back(gaps, limit):
    policy = create(f"tpm={limit}")
    now_s = 0.0
    for number, gap_s in enumerate(gaps):
        now_s += gap_s
        affordable = int(gap_s * limit / 60) if number else limit - 1
        policy.arrive(Request(str(number), "a", max(affordable - 1, 0), 1), now_s)
        assert [str(number)] == [request.id for request in policy.admit(now_s, lambda _: True)]


def test_round_robin_takes_turns_of_one_quantum_each():
    policy = create("drr:quantum=20")
    arrivals(policy, *"aaaaaabbbbbb")

    assert list("aabbaabbaabb") == admit(policy)


def test_round_robin_with_weights_takes_longer_turns():
    policy = create("drr:quantum=10", {"a": 3.0})
    arrivals(policy, *"aaaaaabbb")

    assert list("aaabaaabb") == admit(policy)


def test_output_tokens_put_a_tenant_into_debt_that_others_serve_out():
    policy = create("drr:quantum=10")
    arrivals(policy, *"aabbbbb")
    admit(policy, room=1)
    policy.tokens("a0@0.0", 10, 0.0)

    assert list("bbba") == admit(policy, room=4)


def test_a_tiny_quantum_passes_over_the_rounds_that_start_nothing():
    policy = create("drr:quantum=0.000001")
    arrivals(policy, *"abab", prompt=1_000_000)

    assert list("abab") == admit(policy)


def test_credit_is_lost_when_the_queue_empties():
    policy = create("drr:quantum=1000")
    arrivals(policy, "a")
    admit(policy)

    assert policy.snapshot()["credit"]["a"] == 0.0


def test_a_client_that_leaves_the_round_does_not_stop_it():
    policy = create("drr:quantum=10")
    arrivals(policy, *"ab")
    policy.cancel("a0@0.0", 0.0)

    assert admit(policy) == ["b"]
