"""The simulator that defines the others: one Python object per idea, one step at a time, any policy.

The loop is the VTC artifact's: admission when nothing runs or `admit_every` decode steps have passed since the last;
a prefill stalls decoding and gives each request its first token. Arrivals up to the end of a step are queued before
its tokens are charged, those of one instant in file order. Slow; `fast.py` is the one to use.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from llmsys.artifacts import Event
from llmsys.fair_queue.policy import Policy, Request, Throttled
from llmsys.fair_queue.sim.hardware import Hardware
from llmsys.fair_queue.sim.machine import Machine, peak_tokens
from llmsys.fair_queue.sim.result import Result, Workload

__all__ = ["simulate_stepwise"]

OnEvent = Callable[[Event], None]


@dataclass(slots=True)
class _Running:
    index: int
    prompt: int
    output: int
    generated: int = 0

    @property
    def held(self) -> int:
        return self.prompt + self.generated


@dataclass(slots=True)
class _Clockwork:
    """The state of a run."""

    workload: Workload
    policy: Policy
    hardware: Hardware
    machine: Machine
    on_event: OnEvent | None
    now_s: float = 0.0
    arrived: int = 0
    waiting: int = 0
    since_admission: int = 0
    batch: list[_Running] = field(default_factory=list)
    numbers: dict[str, int] = field(default_factory=dict)
    paused: dict[int, _Running] = field(default_factory=dict)
    order: list[int] = field(default_factory=list)


def simulate_stepwise(
    workload: Workload, policy: Policy, hardware: Hardware, machine: Machine, on_event: OnEvent | None = None
) -> Result:
    """Serve the workload; `on_event` gets what happens, in order of time, as the audit reads it (without meta)."""
    count = len(workload.ids)
    run = _Clockwork(workload, policy, hardware, machine, on_event)
    nothing = np.full(count, np.nan)
    result = Result(workload, nothing, nothing.copy(), nothing.copy(), np.zeros(count, np.bool_), run.order)
    while _deliver(run, result) or run.batch or run.waiting:
        due = not run.batch or run.since_admission >= machine.admit_every
        new = _admit(run, result) if due and run.waiting else []
        if new:
            _prefill(run, result, new)
        elif run.batch:
            _decode(run, result)
        else:
            _wait(run)
    return result


def _emit(run: _Clockwork, event: str, index: int, at_s: float, n: int = 0) -> None:
    if run.on_event is not None:
        record = run.workload.records[index]
        prompt = record.prompt_tokens if event in ("arrive", "admit", "reject") else 0
        run.on_event(Event(at_s, event, record.id, record.tenant, n, prompt))


def _deliver(run: _Clockwork, result: Result) -> bool:
    """Queue what has arrived by now; returns whether more is to come."""
    work = run.workload
    while run.arrived < len(work.ids) and work.arrival[run.arrived] <= run.now_s:
        index = run.arrived
        run.arrived += 1
        record, at_s = work.records[index], float(work.arrival[index])
        request = Request(
            record.id,
            record.tenant,
            record.prompt_tokens,
            record.output_tokens,
            record.group,
            record.priority,
            record.prefix,
        )
        run.numbers[record.id] = index
        fits = run.machine.holds(record.prompt_tokens, record.output_tokens)
        if fits and run.policy.arrive(request, at_s).accepted:
            run.waiting += 1
            _emit(run, "arrive", index, at_s, record.output_tokens)
        else:
            result.refused[index] = True
            _emit(run, "reject", index, at_s)
    return run.arrived < len(work.ids)


def _admit(run: _Clockwork, result: Result) -> list[_Running]:
    """Ask the policy; every request that fits is reserved for at once."""
    new: list[_Running] = []

    def fits(request: Request) -> bool:
        index = run.numbers[request.id]
        candidate = run.paused.get(index) or _Running(index, request.prompt_tokens, request.max_tokens)
        if not _fits(run, new, candidate):
            return False
        new.append(candidate)
        return True

    for request in run.policy.admit(run.now_s, fits):
        index = run.numbers[request.id]
        run.paused.pop(index, None)
        run.waiting -= 1
        run.order.append(index)
        if np.isnan(result.admit_s[index]):
            result.admit_s[index] = run.now_s
        _emit(run, "admit", index, run.now_s)
    return new


def _fits(run: _Clockwork, new: list[_Running], candidate: _Running) -> bool:
    machine, together = run.machine, [*run.batch, *new]
    joining = sum(one.held for one in new)
    if len(together) >= machine.max_batch or (joining > 0 and joining + candidate.held > machine.max_prefill):
        return False
    if machine.reserve == "sum":
        return sum(one.prompt + one.output for one in [*together, candidate]) <= machine.memory
    if machine.reserve == "paged":
        # one token of room for everyone, or the next step would preempt at once
        return sum(one.held + 1 for one in [*together, candidate]) <= machine.memory
    running = [(one.held, max(one.output - one.generated - 1, 0)) for one in run.batch]
    starting = [(one.prompt + 1, max(one.output - 1, 0)) for one in [*new, candidate]]
    return peak_tokens(running + starting) < machine.memory


def _prefill(run: _Clockwork, result: Result, new: list[_Running]) -> None:
    run.now_s += run.hardware.prefill_s(sum(one.held for one in new))
    run.since_admission = 0
    run.batch += new
    _deliver(run, result)
    _generate(run, result, new)


def _decode(run: _Clockwork, result: Result) -> None:
    _make_room(run)
    run.now_s += run.hardware.decode_s(len(run.batch), sum(one.held for one in run.batch))
    run.since_admission += 1
    _deliver(run, result)
    _generate(run, result, run.batch)


def _generate(run: _Clockwork, result: Result, those: list[_Running]) -> None:
    """Give each request one token, unless it wants none, and end those that are done."""
    for one in those:
        request_id = run.workload.ids[one.index]
        if one.generated < one.output:
            one.generated += 1
            if np.isnan(result.first_s[one.index]):
                result.first_s[one.index] = run.now_s
            run.policy.tokens(request_id, 1, run.now_s)
            _emit(run, "token", one.index, run.now_s, 1)
    for one in those:
        if one.generated == one.output:
            run.policy.finish(run.workload.ids[one.index], run.now_s)
            result.finish_s[one.index] = run.now_s
            _emit(run, "finish", one.index, run.now_s)
    run.batch = [one for one in run.batch if one.generated < one.output]


def _make_room(run: _Clockwork) -> None:
    """With paged memory: preempt the newest until the step's tokens have room; one request alone always has."""
    while run.machine.reserve == "paged" and sum(one.held + 1 for one in run.batch) > run.machine.memory:
        victim = run.batch.pop()
        run.paused[victim.index] = victim
        run.waiting += 1
        run.policy.preempted(run.workload.ids[victim.index], run.now_s)
        _emit(run, "preempt", victim.index, run.now_s)


def _wait(run: _Clockwork) -> None:
    """Nothing runs and nothing may start: go to the next arrival, or to when a limit lets a request go."""
    times = [float(run.workload.arrival[run.arrived])] if run.arrived < len(run.workload.ids) else []
    if run.waiting and isinstance(run.policy, Throttled):
        wake_s = run.policy.wake_s(run.now_s)
        times += [] if wake_s is None else [wake_s]
    assert times, "a request that fits an empty machine was not admitted"
    run.now_s = max(run.now_s, min(times))
