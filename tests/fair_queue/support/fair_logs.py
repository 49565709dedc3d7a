"""Event logs for tests: made by the stepwise simulator from made-up work, and broken on purpose."""

import itertools

import msgspec

from llmsys.artifacts import Event, TraceRecord
from llmsys.fair_queue.policy import create
from llmsys.fair_queue.sim import Hardware, Machine, simulate_stepwise, workload_of

# seconds that are whole numbers, so that logs are easy to read
PLAIN = Hardware(p0=1.0, p1=0.0, d0=1.0, d1=0.0, d2=0.0)


def record(name, tenant="a", at_s=0.0, prompt=1, output=1):
    return TraceRecord(name, tenant, float(at_s), prompt, output)


def records_of(work):
    return [
        record(item.request.id, item.request.tenant, item.step, item.request.prompt_tokens, item.request.max_tokens)
        for item in work
    ]


def log_of(trace, spec="vtc", *, weights=None, wp=1.0, wq=2.0, hardware=PLAIN, **machine):
    """The events of a run, meta first."""
    machine = Machine(**{"admit_every": 1, **machine})
    meta = Event(
        0.0,
        "meta",
        policy=spec,
        reserve=machine.reserve,
        memory=machine.memory,
        weights=weights or {},
        prompt_weight=wp,
        output_weight=wq,
        clock="virtual",
        max_batch=machine.max_batch,
        admit_every=machine.admit_every,
    )
    events = [meta]
    simulate_stepwise(workload_of(trace), lambda: create(spec, weights), hardware, machine, events.append)
    return events


def coarse(events, every):
    """The same log with one token record for `every` tokens of a request, written with the last of them."""
    pending, out = {}, [msgspec.structs.replace(events[0], log_every=every)]
    for event in events[1:]:
        if event.event == "token":
            pending[event.id] = pending.get(event.id, 0) + event.n
        if event.event == "finish" or pending.get(event.id, 0) == every:
            if pending.get(event.id):
                out.append(Event(event.t_s, "token", event.id, event.tenant, pending.pop(event.id)))
            if event.event == "token":
                continue
        if event.event != "token":
            out.append(event)
    return out


def brute_force(events, wp=1.0, wq=2.0):
    """The largest gap of every statement over all pairs and all intervals, by trying them."""
    weights = events[0].weights
    tenants = sorted({event.tenant for event in events[1:]})
    service, waiting = dict.fromkeys(tenants, 0.0), dict.fromkeys(tenants, 0)
    prompt, started = {}, set()
    spells, states = dict.fromkeys(tenants, 0), []
    for number, event in enumerate(events[1:], 1):
        u = event.tenant
        if event.event == "arrive":
            prompt[event.id] = event.prompt_tokens
        if event.event in ("arrive", "preempt"):
            waiting[u] += 1
        if event.event == "admit":
            waiting[u] -= 1
            if not waiting[u]:
                spells[u] += 1
            if event.id not in started:
                service[u] += wp * prompt[event.id] / weights.get(u, 1.0)
            started.add(event.id)
        if event.event == "token":
            service[u] += wq * event.n / weights.get(u, 1.0)
        following = events[number + 1] if number + 1 < len(events) else None
        one_step = following is not None and (event.event, event.t_s) == ("token", following.t_s)
        if not (one_step and following.event == "token"):
            # a spell number says which stretch of backlog it is; None outside
            states.append((dict(service), {t: spells[t] if waiting[t] else None for t in tenants}))
    joint = fall = 0.0
    for f, g in itertools.permutations(tenants, 2):
        for first, second in itertools.combinations(states, 2):
            if first[1][f] is None or first[1][f] != second[1][f]:
                continue
            moved = second[0][g] - first[0][g] - (second[0][f] - first[0][f])
            fall = max(fall, moved)
            if first[1][g] is not None and first[1][g] == second[1][g]:
                joint = max(joint, abs(moved))
    return joint, fall
