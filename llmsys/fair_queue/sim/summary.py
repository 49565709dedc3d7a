"""One line per policy: speed, refusals and fairness side by side, because no one of them means anything alone."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from llmsys.artifacts import Event
from llmsys.fair_queue.audit import check, jain_index
from llmsys.fair_queue.sim.fairness import served_by, service_difference
from llmsys.fair_queue.sim.hardware import Hardware
from llmsys.fair_queue.sim.machine import Machine
from llmsys.fair_queue.sim.result import Result, Workload
from llmsys.fair_queue.sim.run import meta_event, run

__all__ = ["Summary", "summarize_result", "summary_of"]

LEVELS = (50, 99)


@dataclass(slots=True, frozen=True)
class Summary:
    """Figures of a run. Times in seconds, differences in cost units per second as the paper's figures have them.

    jain is over service per weight until the last arrival, of the tenants that asked for any: later the queues only
    empty, and everyone gets everything. bound_2u and worst_gap come from an audit of the
    run's events, with holds for all its statements; None where the run made none.
    """

    policy: str
    requests: int
    served: int
    refused: int
    makespan_s: float
    tokens_per_s: float
    max_diff: float
    avg_diff: float
    jain: float
    ttft_mean_s: float | None
    ttft_p50_s: float | None
    ttft_p99_s: float | None
    sim_wall_s: float
    bound_2u: float | None = None
    worst_gap: float | None = None
    holds: bool | None = None


def summary_of(
    work: Workload,
    policy: str,
    hardware: Hardware,
    *,
    machine: Machine,
    weights: Mapping[str, float] | None = None,
    audited: bool = False,
) -> Summary:
    """Simulate and sum up; `audited` makes every event, which is slower, and judges them."""
    events: list[Event] = []
    rules = meta_event(policy, machine, weights)
    began = time.perf_counter()
    result = run(work, policy, hardware, machine=machine, weights=weights, on_event=events.append if audited else None)
    wall_s = time.perf_counter() - began
    prices = rules.prompt_weight, rules.output_weight
    figures = summarize_result(policy, result, wall_s=wall_s, weights=weights, wp=prices[0], wq=prices[1])
    if not audited:
        return figures
    # replicas have queues of their own: each is judged by its own bound, the one with least slack is shown
    verdicts = [check(events, replica=replica) for replica in range(machine.replicas)]
    worst = min(verdicts, key=lambda verdict: verdict.bound - verdict.worst_gap)
    return replace(
        figures, bound_2u=worst.bound, worst_gap=worst.worst_gap, holds=all(verdict.holds for verdict in verdicts)
    )


def summarize_result(
    policy: str,
    result: Result,
    *,
    wall_s: float,
    weights: Mapping[str, float] | None = None,
    wp: float = 1.0,
    wq: float = 2.0,
) -> Summary:
    """The figures of a result; differences are taken over the time in which requests arrived."""
    work = result.workload
    served = ~np.isnan(result.finish_s)
    cost = wp * work.prompt + wq * work.output
    tokens = float((work.prompt + work.output)[served].sum())
    weight = np.array([(weights or {}).get(name, 1.0) for name in work.tenants] or [1.0])
    span_s = float(np.ceil(work.arrival.max(initial=0.0) / 10.0) * 10.0)
    first = np.where(np.isnan(result.first_s), result.finish_s, result.first_s)
    service = served_by(work.tenant[served], first[served], result.finish_s[served], cost[served], at_s=span_s)
    difference = service_difference(
        work.tenant[served],
        work.arrival[served],
        first[served],
        result.finish_s[served],
        cost[served],
        duration_s=max(span_s, 60.0),
    )
    waits = result.ttft_s
    p50, p99 = (float(x) for x in np.percentile(waits, LEVELS)) if len(waits) else (None, None)
    return Summary(
        policy=policy,
        requests=len(work.ids),
        served=int(served.sum()),
        refused=int(result.refused.sum()),
        makespan_s=result.makespan_s,
        tokens_per_s=tokens / result.makespan_s if result.makespan_s else 0.0,
        max_diff=difference.largest,
        avg_diff=difference.mean,
        jain=jain_index(service / weight[: len(service)]),
        ttft_mean_s=float(waits.mean()) if len(waits) else None,
        ttft_p50_s=p50,
        ttft_p99_s=p99,
        sim_wall_s=wall_s,
    )
