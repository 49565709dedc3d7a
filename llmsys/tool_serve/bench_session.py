"""A bench from its options to its rows. Knows no workload's text."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from llmsys.errors import UsageFault
from llmsys.gpu import describe
from llmsys.tool_serve.bench import WORKLOADS, Measured, measure
from llmsys.tool_serve.bench_peers import EAGER_TOOLS, has_eager_tools
from llmsys.tool_serve.replay import rates_of

__all__ = ["BenchPlan", "BenchResult", "bench_plan", "run_bench"]

POLICIES = 3


@dataclass(frozen=True, slots=True)
class BenchPlan:
    """Which workloads at which rates, and how many turns of each."""

    workloads: tuple[str, ...]
    rates: tuple[float, ...]
    repeat: int

    @property
    def turns(self) -> int:
        """Turns that will be run, all policies together."""
        return (POLICIES + has_eager_tools()) * self.repeat * len(self.workloads) * len(self.rates)


@dataclass(frozen=True, slots=True)
class BenchResult:
    """The machine in words, the turns of each row, the peers that are not installed, and the rows."""

    machine: str
    repeat: int
    missing: list[str]
    rows: list[Measured]


def bench_plan(only: str, rate: str, repeat: int) -> BenchPlan:
    """The plan that options ask for. Raises UsageFault."""
    workloads = tuple(WORKLOADS) if only == "all" else tuple(only.split(","))
    unknown = [one for one in workloads if one not in WORKLOADS]
    if unknown:
        raise UsageFault(f"--only {unknown[0]!r}; expected all, or some of {', '.join(WORKLOADS)}")
    return BenchPlan(workloads, rates_of(rate), repeat)


def run_bench(plan: BenchPlan, on_turn: Callable[[int], None]) -> BenchResult:
    """Measure every workload at every rate."""
    with tempfile.TemporaryDirectory() as directory:
        rows = [
            measure(one, rate=rate, repeat=plan.repeat, directory=Path(directory), on_turn=on_turn)
            for one, rate in product(plan.workloads, plan.rates)
        ]
    missing = [] if has_eager_tools() else [EAGER_TOOLS]
    return BenchResult(describe(), plan.repeat, missing, rows)
