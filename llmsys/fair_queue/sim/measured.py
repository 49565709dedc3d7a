"""Measured runs: what a log of the VTC artifact says of each request, and how far a simulation is from it.

The first line of a log is {"run": "SCHEDULER/SUITE", "total_time_s", "requests"}; the scheduler names our policy.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llmsys.artifacts import TraceRecord
from llmsys.errors import BadInput
from llmsys.fair_queue.sim.hardware import Hardware
from llmsys.fair_queue.sim.machine import Machine
from llmsys.fair_queue.sim.result import Workload, workload_of
from llmsys.fair_queue.sim.run import run
from llmsys.fair_queue.traces.rows import jsonl_rows

__all__ = ["Errors", "MeasuredRun", "compare_run", "read_run"]

SCHEDULERS = {
    "FCFS": "fcfs",
    "LCF": "lcf",
    "VTC": "vtc",
    "VTC_oracle": "vtc:predict=oracle",
    "VTC_pred_50": "vtc:predict=oracle50",
    "VTC_predict": "vtc:predict=ema",
}


@dataclass(slots=True, frozen=True)
class MeasuredRun:
    """One run: seconds of first token and end per request, NaN where it was refused."""

    name: str
    policy: str
    workload: Workload
    first_s: NDArray[np.float64]
    finish_s: NDArray[np.float64]

    @property
    def refused(self) -> NDArray[np.bool_]:
        """Which requests the run turned away."""
        return np.isnan(self.first_s)


@dataclass(slots=True, frozen=True)
class Errors:
    """Simulated over measured, less 1; latency and TTFT are means over requests that both served.

    Runs are measured at the client, so the step model's `delay` counts.
    """

    run: str
    policy: str
    makespan: float
    ttft: float
    latency: float
    refused: int
    refused_measured: int


def read_run(source: str | Path, *, policy: str | None = None) -> MeasuredRun:
    """Read a log; `policy` overrides what its run's name says. Raises BadInput for a scheduler that is not known."""
    rows = list(jsonl_rows(source))
    if not rows or "run" not in rows[0].values:
        raise BadInput(str(source), "no first line with a run", 'a line {"run":"VTC/overload",…}, then one per request')
    name = rows[0].text("run")
    records, first, finish = [], [], []
    for row in rows[1:]:
        arrival_s = row.number("arrival_s")
        records.append(
            TraceRecord(
                row.text("id"), row.text("tenant"), arrival_s, row.count("prompt_tokens"), row.count("output_tokens")
            )
        )
        refused = row.values.get("latency_s") == -1
        first.append(np.nan if refused else arrival_s + row.number("ttft_s"))
        finish.append(np.nan if refused else arrival_s + row.number("latency_s"))
    work = workload_of(sorted(records, key=lambda record: record.arrival_s))
    return MeasuredRun(name, policy or _policy_of(name, str(source)), work, np.array(first), np.array(finish))


def _policy_of(name: str, source: str) -> str:
    scheduler, *rest = name.split("/")
    if scheduler == "LShare" and rest and rest[0].removeprefix("rpm").isdigit():
        return f"rpm={rest[0].removeprefix('rpm')}"
    if scheduler not in SCHEDULERS:
        raise BadInput(source, f"run {name!r}", f"a scheduler of {', '.join(SCHEDULERS)}, LShare/rpmN, or --policy")
    return SCHEDULERS[scheduler]


def compare_run(measured: MeasuredRun, hardware: Hardware, machine: Machine) -> Errors:
    """Simulate the run's trace and say how far off the means are."""
    result = run(measured.workload, measured.policy, hardware, machine=machine)
    both = ~np.isnan(result.finish_s) & ~np.isnan(measured.finish_s)
    arrival = measured.workload.arrival

    def off(simulated: NDArray[np.float64], real: NDArray[np.float64]) -> float:
        return float(np.mean((simulated + hardware.delay - arrival)[both]) / np.mean((real - arrival)[both]) - 1.0)

    return Errors(
        run=measured.name,
        policy=measured.policy,
        makespan=result.makespan_s / float(np.nanmax(measured.finish_s)) - 1.0,
        ttft=off(result.first_s, measured.first_s),
        latency=off(result.finish_s, measured.finish_s),
        refused=int(result.refused.sum()),
        refused_measured=int(measured.refused.sum()),
    )
