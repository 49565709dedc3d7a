"""What a machine may have beside its memory: chunks of prefill, cached prefixes, preemption by class, replicas."""

import itertools

import numpy as np
import pytest
from fair_driving import works
from fair_logs import PLAIN, log_of, record, records_of
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsys.artifacts import TraceRecord
from llmsys.errors import UsageFault
from llmsys.fair_queue.audit import check
from llmsys.fair_queue.policy import create
from llmsys.fair_queue.sim import Hardware, Machine, run, simulate_stepwise, summary_of, workload_of
from llmsys.fair_queue.sim.prefix_cache import PrefixCache
from llmsys.fair_queue.sim.route import make_route

SLOW_PREFILL = Hardware(p0=1.0, p1=0.25, d0=1.0, d1=0.0, d2=0.0)
MACHINES = [
    Machine(memory=40, chunk=3, admit_every=1),
    Machine(memory=40, chunk=3, prefix_cache=True, block_tokens=2, reserve="paged"),
    Machine(memory=40, replicas=3, admit_every=2),
    Machine(memory=40, replicas=2, route="hash", prefix_cache=True, block_tokens=3),
    Machine(memory=40, replicas=2, route="d2lpm", prefix_cache=True, block_tokens=3, chunk=5),
]
SPECS = ["vtc", "dlpm:quantum=20,block=3", "priority:preempt=yes,age=20", "fairbatch:tbt=2,floor=1", "edf:cached=0.5"]
STATES = {"arrive": (None, "waits"), "admit": ("waits", "runs"), "token": ("runs", "runs"), "finish": ("runs", "gone"),
          "preempt": ("runs", "waits")}  # fmt: skip


def urgent(name, at_s, prompt, output, priority=1, tenant="u"):
    return TraceRecord(name, tenant, float(at_s), prompt, output, priority=priority)


def shared(name, at_s, prefix, prompt=10, output=1, tenant="a"):
    return TraceRecord(name, tenant, float(at_s), prompt, output, prefix=prefix)


def every_field(work):
    return [
        TraceRecord(
            item.request.id,
            item.request.tenant,
            float(item.step),
            item.request.prompt_tokens,
            item.request.max_tokens,
            group=item.request.group,
            prefix=item.request.prefix,
            priority=item.request.priority,
            ttft_slo_s=item.request.ttft_slo_s,
        )
        for item in work
    ]


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("spec", SPECS)
@settings(max_examples=15, deadline=None)
@given(work=works(requests=25))
def test_every_request_is_served_in_a_sensible_order_of_events(machine, spec, work):
    events, state, held, made = [], {}, {}, {}
    trace = workload_of(every_field(work))
    result = simulate_stepwise(trace, lambda: create(spec), SLOW_PREFILL, machine, events.append)
    for _, instant in itertools.groupby(events, key=lambda event: event.t_s):
        for event in instant:
            before, after = STATES[event.event]
            assert state.get(event.id) == before
            state[event.id] = after
            if event.event == "admit":
                assert event.cached_tokens < max(event.prompt_tokens, 1)
                held[event.id] = event.replica, event.prompt_tokens + made.get(event.id, 0)
            if event.event == "token":
                made[event.id] = made.get(event.id, 0) + event.n
                held[event.id] = event.replica, held[event.id][1] + event.n
            if event.event in ("finish", "preempt"):
                del held[event.id]
        for replica in range(machine.replicas):
            assert sum(tokens for where, tokens in held.values() if where == replica) <= machine.memory

    assert not result.refused.any()
    assert set(state.values()) == {"gone"}
    assert made == {item.request.id: item.request.max_tokens for item in work if item.request.max_tokens}
    assert (result.finish_s > result.workload.arrival).all()


def test_a_chunk_joins_the_decode_step_and_the_first_token_waits_for_the_last_chunk():
    trace = [record("decoding", "a", 0.0, 4, 20), record("long", "b", 2.5, 10, 2)]
    result = run(trace, "vtc", SLOW_PREFILL, machine=Machine(chunk=4, admit_every=1))

    # alone: 1 + 4/4 s; then steps of 1 s, of which three carry 4, 4 and 2 tokens of the long prompt
    assert result.first_s[0] == 2.0
    assert result.admit_s[1] == 3.0
    assert result.first_s[1] == 3.0 + 2.0 + 2.0 + 1.5


def test_chunks_keep_decodes_flowing_where_a_whole_prefill_stalls_them():
    trace = [record("decoding", "a", 0.0, 4, 60), record("long", "b", 5.0, 400, 2)]
    gaps = []
    for chunk in (0, 8):
        events = log_of(trace, hardware=SLOW_PREFILL, memory=1000, chunk=chunk)
        times = [event.t_s for event in events if event.event == "token" and event.id == "decoding"]
        gaps.append(np.diff(times).max())

    assert gaps[0] >= 1.0 + 100.0
    assert gaps[1] == 1.0 + 8 * 0.25


def test_lent_slack_keeps_every_token_in_time_where_a_large_chunk_does_not():
    trace = [record("decoding", "a", 0.0, 4, 60), record("long", "b", 5.0, 400, 2)]
    late = []
    for spec, chunk in (("vtc", 64), ("fairbatch:tbt=3,floor=1", 64)):
        events = log_of(trace, spec, hardware=SLOW_PREFILL, memory=1000, chunk=chunk)
        times = [event.t_s for event in events if event.event == "token" and event.id == "decoding"]
        late.append(max(at_s - times[0] - 3.0 * k for k, at_s in enumerate(times)))

    assert late[0] > 0
    assert late[1] <= 0.25


def test_a_cached_prefix_is_not_computed_again_and_the_event_says_so():
    trace = [shared("x", 0.0, (1, 2)), shared("y", 50.0, (1, 2)), shared("z", 100.0, (1, 9))]
    machine = Machine(prefix_cache=True, block_tokens=4)
    events = []
    result = run(trace, "vtc", SLOW_PREFILL, machine=machine, on_event=events.append)

    assert [event.cached_tokens for event in events if event.event == "admit"] == [0, 8, 4]
    assert result.ttft_s.tolist() == [1 + 2.5, 1 + 0.5, 1 + 1.5]


def test_blocks_are_cached_once_they_are_computed_not_before():
    trace = [shared("x", 0.0, (1, 2)), shared("y", 0.0, (1, 2))]
    events = []
    run(trace, "vtc", SLOW_PREFILL, machine=Machine(prefix_cache=True, block_tokens=4), on_event=events.append)

    assert [event.cached_tokens for event in events if event.event == "admit"] == [0, 0]


def test_running_requests_push_idle_blocks_out_of_memory():
    trace = [shared("x", 0.0, (1, 2)), shared("big", 50.0, (), prompt=38), shared("y", 100.0, (1, 2))]
    events = []
    machine = Machine(memory=40, prefix_cache=True, block_tokens=4)
    run(trace, "vtc", SLOW_PREFILL, machine=machine, on_event=events.append)

    assert [event.cached_tokens for event in events if event.event == "admit"] == [0, 0, 0]


@given(st.lists(st.tuples(st.sampled_from("srt"), st.integers(0, 5), st.integers(0, 40)), max_size=60))
def test_the_cache_keeps_what_is_pinned_and_no_more_than_is_free(script):
    cache, running = PrefixCache(4), []
    for action, number, free in script:
        prefix = tuple(range(number))
        if action == "s":
            started = cache.start(prefix)
            assert cache.match(prefix, 1000) == 4 * started
            running.append((prefix, cache.computed(prefix, started)))
        elif action == "r" and running:
            cache.release(*running.pop(number % len(running)))
        else:
            cache.trim(free)
        for prefix, _ in running:
            assert cache.match(prefix, 1000) == 4 * len(prefix)
    for one in running:
        cache.release(*one)
    cache.trim(0)
    assert cache.match((0,), 1000) == 0


def test_cached_tokens_count_less_where_the_policy_says_so():
    trace = [shared(f"a{n}", 0.0, (1, 2), prompt=9) for n in range(6)]
    trace += [shared(f"b{n}", 0.0, (), prompt=9, tenant="b") for n in range(6)]
    machine = Machine(memory=30, max_batch=1, prefix_cache=True, block_tokens=4, admit_every=1)

    def first_six(spec):
        result = run(trace, spec, PLAIN, machine=machine)
        return [result.workload.records[index].tenant for index in result.order[:6]]

    # full price: turns of 11 each; cached tokens free: a's turns cost 3 after the first
    assert first_six("vtc") == list("ababab")
    assert first_six("vtc:cached=0") == list("ababaa")


@pytest.mark.parametrize(("memory", "max_batch"), [(20, 1000), (1000, 1)])
def test_an_urgent_request_preempts_on_either_limit(memory, max_batch):
    trace = [record("low", "a", 0.0, 5, 15), urgent("high", 3.0, 5, 5)]
    machine = Machine(memory=memory, max_batch=max_batch, admit_every=1)
    events = []
    result = run(trace, "priority:preempt=yes", PLAIN, machine=machine, on_event=events.append)

    assert [event.id for event in events if event.event == "preempt"] == ["low"]
    assert result.finish_s[1] < result.finish_s[0]
    assert result.admit_s[1] == 3.0


def test_nobody_is_stopped_where_that_would_not_help():
    trace = [record("low", "a", 0.0, 5, 15), urgent("same", 1.0, 5, 20), urgent("large", 3.0, 5, 15)]
    events = []
    machine = Machine(memory=45, admit_every=1)
    run(trace, "priority:preempt=yes", PLAIN, machine=machine, on_event=events.append)
    stopped = [event.id for event in events if event.event == "preempt"]
    small = []
    run([*trace[:2], urgent("huge", 3.0, 5, 39)], "priority:preempt=yes", PLAIN, machine=machine, on_event=small.append)

    assert stopped == ["low"]
    assert not [event for event in small if event.event == "preempt" and event.t_s < 21.0]


def test_a_flood_of_urgent_requests_stops_the_same_victim_three_times_at_most():
    trace = [record("low", "a", 0.0, 1, 30), *(urgent(f"high{n}", 3.0 + 8 * n, 1, 5) for n in range(10))]
    events = log_of(trace, "priority:preempt=yes", memory=31)

    assert sum(event.event == "preempt" for event in events) == 3
    assert sum(event.event == "finish" for event in events) == 11


def test_replicas_serve_twice_as_much_and_least_keeps_them_level():
    trace = [record(f"r{n}", "ab"[n % 2], 0.0, 10, 30) for n in range(40)]
    alone, both = (run(trace, "vtc", PLAIN, machine=Machine(memory=80, replicas=n)) for n in (1, 2))

    assert both.makespan_s == pytest.approx(alone.makespan_s / 2, rel=0.05)


def test_one_replica_behaves_as_the_compiled_machine():
    trace = workload_of([record(f"r{n}", "abc"[n % 3], n * 0.3, n % 7, n % 11) for n in range(60)])
    machine = Machine(memory=40)
    slow = simulate_stepwise(trace, lambda: create("vtc"), PLAIN, machine)

    assert slow.order == run(trace, "vtc", PLAIN, machine=machine).order


def test_routes_choose_by_load_by_tenant_and_by_locality():
    least, by_tenant = (make_route(name, 3, block_tokens=4) for name in ("least", "hash"))
    one = shared("x", 0.0, (1, 2), prompt=8)

    assert least.choose(one, [2, 1, 1]) == 1
    assert by_tenant.choose(one, [2, 1, 1]) == by_tenant.choose(shared("y", 9.0, ()), [0, 9, 9])
    assert len({by_tenant.choose(record("r", f"t{n}"), [0, 0, 0]) for n in range(30)}) == 3


def test_locality_holds_until_the_tenants_credit_there_is_spent():
    route = make_route("d2lpm", 2, block_tokens=100)
    requests = [shared(f"x{n}", 0.0, (1, 2), prompt=250, output=100) for n in range(20)]
    chosen = []
    for one in requests:
        chosen.append(route.choose(one, [5, 0] if not chosen else [0, 0]))
        route.ended(one, chosen[-1])

    assert chosen[:2] == [1, 1]
    assert set(chosen) == {0, 1}
    assert 6 <= sum(chosen) <= 14


def test_replicas_are_audited_one_by_one():
    trace = [record(f"a{n}", "a", 0.0, 5, 20) for n in range(30)] + [
        record(f"b{n}", "b", 1.0, 5, 20) for n in range(30)
    ]
    machine = Machine(memory=60, replicas=2)
    events = []
    run(trace, "vtc", PLAIN, machine=machine, on_event=events.append)
    row = summary_of(workload_of(trace), "vtc", PLAIN, machine=machine, audited=True)

    with pytest.raises(UsageFault, match="several replicas"):
        check(events)
    assert all(check(events, replica=replica).holds for replica in (0, 1))
    assert row.holds


@settings(max_examples=30, deadline=None)
@given(work=works(requests=40))
def test_without_cached_prefixes_the_price_of_cached_tokens_changes_nothing(work):
    trace, machine = records_of(work), Machine(memory=40)

    assert run(trace, "vtc:cached=0", PLAIN, machine=machine).order == run(trace, "vtc", PLAIN, machine=machine).order


def test_a_route_that_does_not_exist_is_named():
    with pytest.raises(ValueError, match="route is 'random'; expected one of least, hash, d2lpm"):
        Machine(route="random")
