"""How far simulated runs are from measured ones: the step model's errors on logs of real servers."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from llmsys.errors import UsageFault
from llmsys.fair_queue.sim import Errors, Hardware, Machine, compare_run, read_run

__all__ = ["RealBench", "bench_real"]


@dataclass(slots=True, frozen=True)
class RealBench:
    """Errors per run, and of their sizes the median and the largest; targets are 2 and 4 %, 5 and 20 %."""

    runs: list[Errors]
    makespan_median: float
    makespan_most: float
    ttft_median: float
    ttft_most: float
    within_targets: bool


def bench_real(logs: Sequence[str], hardware: Hardware, machine: Machine) -> RealBench:
    """Simulate the trace of every log. Raises BadInput for what is no log, UsageFault for none."""
    if not logs:
        raise UsageFault("no logs of measured runs; give at least one")
    errors = [compare_run(read_run(log), hardware, machine) for log in logs]
    makespan, ttft = [abs(one.makespan) for one in errors], [abs(one.ttft) for one in errors]
    within = median(makespan) <= 0.02 and max(makespan) <= 0.04 and median(ttft) <= 0.05 and max(ttft) <= 0.20
    return RealBench(errors, median(makespan), max(makespan), median(ttft), max(ttft), within)
