"""The adapter behind the engine's policy seam, driven as the engine drives it."""

from dataclasses import dataclass, field

import pytest

from llmsys.fair_queue.policy import PolicySpecError, engine_policy


@dataclass(frozen=True)
class Sampling:
    max_tokens: int = 8


@dataclass(frozen=True)
class EngineRequest:
    request_id: int
    tenant: str
    prompt_tokens: int = 10
    arrival_s: float = 0.0
    group: str | None = None
    priority: int = 0
    sampling: Sampling = field(default_factory=Sampling)


def arrive(policy, *tenants):
    requests = [EngineRequest(number, tenant) for number, tenant in enumerate(tenants)]
    for request in requests:
        policy.on_arrival(request, 0.0)
    return requests


def pick(policy, waiting, room=100):
    left = iter(range(room))
    return list(policy.pick(waiting, lambda _: next(left, None) is not None, 0.0))


def test_yields_the_engines_own_requests_in_the_order_of_the_policy():
    policy = engine_policy("vtc")
    requests = arrive(policy, "a", "a", "a", "b")

    assert [requests[0], requests[3], requests[1], requests[2]] == pick(policy, requests)


def test_weights_reach_the_policy():
    policy = engine_policy("vtc", weights={"a": 3.0})
    requests = arrive(policy, *"aaaabb")

    assert list("abaaab") == [request.tenant for request in pick(policy, requests)]


def test_output_tokens_are_charged_and_the_prompt_is_charged_once():
    policy = engine_policy("vtc")
    first, *others = arrive(policy, "a", "b", "a", "b")
    assert [first] == pick(policy, [first, *others], room=1)
    policy.on_tokens(first, input_tokens=10, output_tokens=1)
    policy.on_tokens(first, input_tokens=0, output_tokens=3)

    assert [others[0], others[2], others[1]] == pick(policy, others)


def test_what_does_not_fit_ends_the_pick_and_stays_for_the_next():
    policy = engine_policy("vtc")
    requests = arrive(policy, "a", "b")

    assert pick(policy, requests, room=0) == []
    assert requests == pick(policy, requests)


def test_a_preempted_request_comes_back_before_its_tenants_others_without_a_new_charge():
    policy = engine_policy("vtc")
    requests = arrive(policy, *"abbaa")
    victim = policy.victim(pick(policy, requests, room=2))
    order = pick(policy, [victim, *requests[2:]])

    assert victim == requests[1]
    assert order == [requests[3], victim, requests[2], requests[4]]


@pytest.mark.parametrize("finish", ["stop", "length", "cancelled", "error"])
def test_every_end_is_settled_for_waiting_and_running_requests(finish):
    policy = engine_policy("vtc:predict=ema")
    running, waiting, other = arrive(policy, "a", "a", "a")
    pick(policy, [running, waiting, other], room=1)
    policy.on_finish(running, finish)
    policy.on_finish(waiting, "cancelled")

    assert [other] == pick(policy, [other])


@pytest.mark.parametrize("spec", ["rpm=5", "tpm=100"])
def test_policies_that_refuse_are_refused_by_name(spec):
    with pytest.raises(PolicySpecError, match=f"policy '{spec}' refuses or delays requests"):
        engine_policy(spec)
