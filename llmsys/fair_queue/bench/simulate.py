"""Requests simulated per CPU second: the compiled loop, and the stepwise one that defines it, on the same trace.

The stepwise loop stands in for a scheduler in plain Python; it serves a cut of the trace. The VTC artifact's own
classes are no package and are not run.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from llmsys.errors import LlmsysError
from llmsys.fair_queue.policy import create
from llmsys.fair_queue.sim import Hardware, Machine, Workload, run, simulate_stepwise

__all__ = ["SimulateRow", "bench_simulate", "repeated"]

TARGET = 200_000.0


@dataclass(slots=True, frozen=True)
class SimulateRow:
    """Requests per CPU second of the simulator, of the stepwise loop on `cut` requests, and their ratio."""

    policy: str
    requests: int
    requests_per_s: float
    stepwise_cut: int
    stepwise_per_s: float
    times_stepwise: float
    target_per_s: float


def repeated(work: Workload, times: int) -> Workload:
    """The workload `times` times, one after the other; without records, so for arrays only."""
    span_s = float(work.arrival[-1]) + 1.0 if len(work.arrival) else 0.0
    count = len(work.ids)
    return Workload(
        ids=[str(number) for number in range(count * times)],
        tenants=work.tenants,
        tenant=np.tile(work.tenant, times),
        arrival=np.tile(work.arrival, times) + np.repeat(np.arange(times) * span_s, count),
        prompt=np.tile(work.prompt, times),
        output=np.tile(work.output, times),
        records=[],
    )


def bench_simulate(
    work: Workload,
    policies: Sequence[str],
    hardware: Hardware,
    machine: Machine,
    *,
    times: int,
    cut: int,
    on_done: Callable[[int], None] | None = None,
) -> list[SimulateRow]:
    """One row per policy. Raises LlmsysError if the two loops admit in different orders, ValueError for a policy that
    only the stepwise loop knows."""
    long, short = repeated(work, times), _first(work, cut)
    rows = []
    for spec in policies:
        # the short run compiles, and must agree with the definition
        quick = run(short, spec, hardware, machine=machine)
        began = time.process_time()
        slow = simulate_stepwise(short, lambda spec=spec: create(spec), hardware, machine)  # type: ignore[misc]
        slow_s = time.process_time() - began
        if quick.order != slow.order:
            raise LlmsysError(f"{spec}: the compiled and the stepwise simulator admit in different orders")
        began = time.process_time()
        run(long, spec, hardware, machine=machine)
        fast_s = time.process_time() - began
        rates = len(long.ids) / fast_s, len(short.ids) / slow_s
        rows.append(SimulateRow(spec, len(long.ids), rates[0], len(short.ids), rates[1], rates[0] / rates[1], TARGET))
        if on_done is not None:
            on_done(1)
    return rows


def _first(work: Workload, count: int) -> Workload:
    return Workload(
        work.ids[:count],
        work.tenants,
        work.tenant[:count],
        work.arrival[:count],
        work.prompt[:count],
        work.output[:count],
        work.records[:count],
    )
