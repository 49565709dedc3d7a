"""The orders of the other schedulers, each on a case small enough to know the answer."""

import pytest

from llmsys.fair_queue.policy import Deadline, RecentPrefixes, Request, Slack, create, matched_tokens
from llmsys.fair_queue.policy.urgency import UrgencyQueue


def arrive(policy, *names, at_s=0.0, prompt=10, output=10, **more):
    for name in names:
        policy.arrive(Request(name, name[0], prompt, output, **more), at_s)


def admit(policy, room=1000, at_s=0.0):
    left = iter(range(room))
    return [request.id for request in policy.admit(at_s, lambda _: next(left, None) is not None)]


def test_a_higher_class_goes_first_whatever_its_tenant_was_served():
    policy = create("priority:inner=vtc")
    arrive(policy, "a1", "b1")
    arrive(policy, "a2", "a3", at_s=1.0, priority=1)

    assert admit(policy, at_s=1.0) == ["a2", "a3", "a1", "b1"]


def test_inside_a_class_the_inner_policy_decides():
    policy = create("priority:inner=vtc,wq=5")
    arrive(policy, "a1", "a2", "b1", priority=3)

    assert admit(policy) == ["a1", "b1", "a2"]


def test_a_request_that_waited_age_seconds_moves_up_a_class():
    policy = create("priority:age=10,inner=fcfs")
    arrive(policy, "old")
    arrive(policy, "new", at_s=9.0, priority=1)
    arrive(policy, "newer", at_s=11.0, priority=1)

    assert admit(policy, at_s=11.0) == ["new", "newer", "old"]


def test_without_ageing_a_low_class_starves_and_with_it_does_not():
    def served_after(spec):
        policy, order = create(spec), []
        arrive(policy, "low")
        for second in range(50):
            arrive(policy, f"high{second}", at_s=float(second), priority=1)
            order += admit(policy, room=1, at_s=float(second))
        return order

    assert "low" not in served_after("priority:inner=fcfs")
    assert served_after("priority:inner=fcfs,age=5").index("low") <= 6


def test_ageing_waits_for_a_class_above_and_then_takes_it():
    policy = create("priority:age=10,inner=fcfs")
    arrive(policy, "old")
    assert admit(policy, room=0, at_s=25.0) == []
    arrive(policy, "high1", at_s=26.0, priority=5)
    assert admit(policy, room=0, at_s=36.0) == []
    arrive(policy, "high2", at_s=37.0, priority=5)

    assert admit(policy, at_s=37.0) == ["high1", "old", "high2"]


def test_the_age_of_one_in_the_highest_class_keeps_nobody_below_from_moving_up():
    policy = create("priority:age=10,inner=fcfs")
    arrive(policy, "first", priority=1)
    arrive(policy, "second", at_s=1.0)
    arrive(policy, "late", at_s=12.0, priority=1)

    assert admit(policy, room=2, at_s=12.0) == ["first", "late"]
    arrive(policy, "later", at_s=12.0, priority=1)

    assert admit(policy, room=1, at_s=12.0) == ["second"]


def test_victims_are_of_the_lowest_class_then_of_least_progress_and_never_of_ones_own():
    policy = create("priority:preempt=yes,inner=fcfs")
    arrive(policy, "mid", priority=1)
    arrive(policy, "far", "near")
    admit(policy)
    policy.tokens("far", 9, 0.0)
    policy.tokens("near", 2, 0.0)
    arrive(policy, "same", priority=1)
    assert policy.victims(0.0) == ["near", "far"]
    arrive(policy, "top", priority=2)

    assert policy.victims(0.0) == ["near", "far", "mid"]


def test_a_stopped_request_returns_to_the_head_of_its_class_and_is_stopped_three_times_at_most():
    policy = create("priority:preempt=yes,inner=vtc")
    arrive(policy, "victim", "later")
    admit(policy, room=1)
    for _ in range(3):
        arrive(policy, "urgent", priority=1)
        assert policy.victims(0.0) == ["victim"]
        policy.preempted("victim", 0.0)
        assert admit(policy, room=2) == ["urgent", "victim"]
        policy.finish("urgent", 0.0)
    arrive(policy, "urgent", priority=1)

    assert policy.victims(0.0) == []


def test_without_preempt_nobody_is_a_victim():
    policy = create("priority")
    arrive(policy, "low")
    admit(policy)
    arrive(policy, "top", priority=9)

    assert policy.victims(0.0) == []


def test_the_earliest_deadline_of_the_tenant_with_the_least_counter_goes_first():
    policy = create("edf:ttft=10")
    arrive(policy, "a-late", "b1", at_s=0.0)
    arrive(policy, "a-soon", at_s=1.0, ttft_slo_s=2.0)

    assert admit(policy, at_s=1.0) == ["a-soon", "b1", "a-late"]


def test_least_slack_counts_the_work_that_is_left():
    slack = Slack(ttft_s=1.0, tpot_s=0.1, token_s=0.0, step_s=0.05)
    short, long = Request("s", "a", 0, 10), Request("l", "a", 0, 100)

    assert slack(short, 0.0) == pytest.approx(1.5)
    assert slack(long, 0.0) == pytest.approx(6.0)
    assert slack(Request("p", "a", 0, 10, ttft_slo_s=0.25), 0.0) == pytest.approx(0.75)


def test_a_deadline_of_ones_own_replaces_the_policys():
    assert Deadline(5.0)(Request("r", "a", 1, 1), 2.0) == 7.0
    assert Deadline(5.0)(Request("r", "a", 1, 1, ttft_slo_s=0.5), 2.0) == 2.5


def test_the_queue_by_urgency_keeps_ties_in_order_and_lets_nobody_pass_who_ran_before():
    queue = UrgencyQueue(lambda request: float(request.priority))
    first, second, third = (Request(name, "a", 1, 1, priority=p) for name, p in (("x", 2), ("y", 1), ("z", 2)))
    for one in (first, second, third):
        queue.append(one)
    queue.appendleft(queue.popleft())
    queue.remove(first)

    assert [one.id for one in queue] == ["y", "z"]
    assert (len(queue), queue[0].id) == (2, "y")
    with pytest.raises(ValueError, match="'x' is not in the queue"):
        queue.remove(first)


def test_longest_prefix_first_among_tenants_in_credit():
    policy = create("dlpm:quantum=1000,block=10")
    arrive(policy, "a1", prompt=40, prefix=(1, 2, 3))
    assert admit(policy) == ["a1"]
    arrive(policy, "b1", prompt=40, prefix=(9, 8))
    arrive(policy, "c1", prompt=40, prefix=(1, 7))
    arrive(policy, "d1", prompt=40, prefix=(1, 2, 3))

    assert admit(policy) == ["d1", "c1", "b1"]


def test_only_prompt_tokens_that_are_not_cached_are_debited():
    policy = create("dlpm:quantum=1000,block=10")
    for name, cached in (("a1", 0), ("b1", 30)):
        arrive(policy, name, f"{name[0]}2", prompt=40, prefix=(1, 2, 3))
        admit(policy, room=1)
        credit = policy.snapshot()["credit"][name[0]]
        assert credit == 1000 - 40 + cached
        policy.cancel(f"{name[0]}2", 0.0)
    arrive(policy, "c1", "c2", prompt=40, prefix=(1, 2, 3))
    admit(policy, room=1)
    policy.cached("c1", 0, 0.0)

    assert policy.snapshot()["credit"]["c"] == 1000 - 40


def test_locality_does_not_let_a_tenant_pass_its_credit():
    policy = create("dlpm:quantum=50,block=10")
    for number in range(6):
        arrive(policy, f"a{number}", prompt=40, output=40, prefix=(1, 2, 3))
        arrive(policy, f"b{number}", prompt=40, output=40, prefix=(50 + number,))
    order = []
    for _ in range(12):
        (name,) = admit(policy, room=1)
        policy.tokens(name, 40, 0.0)
        order.append(name[0])

    assert order[:8].count("b") >= 3


def test_recent_prefixes_forget_the_least_recent_and_match_from_the_start_only():
    prefixes = RecentPrefixes(3)
    prefixes.use((1, 2))
    prefixes.use((3, 4))

    assert prefixes.match((3, 4, 5)) == 2
    assert prefixes.match((1, 2)) == 1
    assert prefixes.match((4, 3)) == 2
    assert prefixes.match((5, 3)) == 0
    assert matched_tokens(2, 512, 1000) == 999


def test_agents_are_served_in_the_order_in_which_equal_sharing_would_finish_them():
    policy = create("justitia:predict=oracle")
    for number in range(3):
        arrive(policy, f"a{number}", prompt=100, output=100, group="large")
    arrive(policy, "b0", prompt=10, output=10, group="small")
    arrive(policy, "c0", prompt=100, output=100)

    assert admit(policy) == ["b0", "c0", "a0", "a1", "a2"]


def test_an_agent_that_comes_late_does_not_pass_one_that_was_nearly_served():
    policy = create("justitia:predict=oracle")
    arrive(policy, "a0", "a1", prompt=0, output=10, group="first")
    admit(policy, room=1)
    policy.tokens("a0", 10, 0.0)
    policy.finish("a0", 0.0)
    arrive(policy, "b0", prompt=0, output=11, group="late")

    # of 100 the first has 50 served while it was alone, so the late one starts at 50 and finishes at 110.5
    assert policy.virtual_finish == {"a\0first": 100.0, "b\0late": 110.5}
    assert admit(policy) == ["a1", "b0"]


def test_with_alpha_one_a_tenant_that_waits_long_is_charged_less():
    policy = create("equinox:alpha=1,latency=10,predict=none")
    arrive(policy, "a1", prompt=100)
    admit(policy, at_s=0.0)
    arrive(policy, "b1", prompt=100, at_s=0.0)
    admit(policy, at_s=30.0)

    assert policy.counters["a"] == 100.0
    assert policy.counters["b"] == 100.0 + 25.0


def test_with_alpha_zero_only_time_on_the_accelerator_counts():
    policy = create("equinox:alpha=0,gpu=4,predict=none")
    arrive(policy, "a1", prompt=100)
    admit(policy)
    policy.tokens("a1", 5, 0.0)

    assert policy.counters["a"] == 120.0


def test_slack_of_the_decodes_is_what_prefill_may_take():
    policy = create("fairbatch:tbt=0.1,floor=8")
    assert policy.prefill_tokens(0.0, decode_s=0.0, token_s=0.001) > 10**9
    arrive(policy, "a1", "b1")
    admit(policy)
    policy.tokens("a1", 1, 0.0)
    policy.tokens("b1", 1, 0.0)

    assert policy.prefill_tokens(0.0, decode_s=0.04, token_s=0.001) == 60
    policy.tokens("a1", 1, 0.05)
    policy.tokens("b1", 1, 0.05)
    assert policy.prefill_tokens(0.05, decode_s=0.04, token_s=0.001) == 110
    assert policy.prefill_tokens(0.5, decode_s=0.04, token_s=0.001) == 8
    assert policy.prefill_tokens(0.5, decode_s=0.04, token_s=0.0) == 8


def test_cached_prompt_tokens_cost_their_price():
    policy = create("vtc:cached=0.25")
    arrive(policy, "a1", prompt=100)
    admit(policy)
    policy.cached("a1", 80, 0.0)
    policy.cached("a1", 40, 0.0)

    assert policy.counters["a"] == 60 + 10.0
