"""How fast plans, dispatch tables and simulated clusters are made, and how good they are, beside peers in one run.

Every result carries the stated targets with what was measured. Knows no stream.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llmsys.gpu import measure
from llmsys.moe_train.dispatch import schedule
from llmsys.moe_train.loads import zipf_loads
from llmsys.moe_train.placement import Placement
from llmsys.moe_train.plan_peers import greedy_plan, load_eplb
from llmsys.moe_train.planning import plan_model
from llmsys.moe_train.recovery import chances
from llmsys.moe_train.sim import SimRequest, chosen_policies, read_cost, run_policies
from llmsys.moe_train.splits import balance, split_model

__all__ = ["BenchFound", "PlanCase", "Target", "bench_dispatch", "bench_plan", "bench_simulate"]

COUNTS = (1, 2, 3)
RATIO_TARGETS = {"failure every 5 min": 5.7, "spot trace, first 80 min": 3.4}
EVENTS_TARGET = 1e6
PAPER_NODES = 10

Ints = NDArray[np.int64]
Row = dict[str, str | float]


@dataclass(frozen=True, slots=True)
class PlanCase:
    """One size: layers, experts, nodes, slots, and the milliseconds that planning may take (None: no target)."""

    layers: int
    experts: int
    nodes: int
    slots: int
    target_ms: float | None = None

    @property
    def name(self) -> str:
        """Layers × experts on nodes × slots."""
        return f"{self.layers}x{self.experts} on {self.nodes}x{self.slots}"


CASES = (
    PlanCase(12, 8, 10, 6),
    PlanCase(12, 12, 10, 6),
    PlanCase(12, 16, 10, 6, 100.0),
    PlanCase(58, 256, 128, 8, 1000.0),
)


@dataclass(frozen=True, slots=True)
class Target:
    """A stated bar and what was measured: `value` must be at most, or with `at_least` at least, `bar`."""

    name: str
    value: float
    bar: float
    at_least: bool = False

    @property
    def reached(self) -> bool:
        """Whether the bar was met."""
        return self.value >= self.bar if self.at_least else self.value <= self.bar

    def row(self) -> Row:
        """The target as a row of a table."""
        sign = "≥" if self.at_least else "≤"
        return {"target": self.name, "measured": self.value, "bar": f"{sign} {self.bar:g}", "reached": self.reached}


@dataclass(frozen=True, slots=True)
class BenchFound:
    """Rows of one kind, the targets, and why a peer is missing."""

    rows: Sequence[Row]
    targets: Sequence[Target]
    missing: Mapping[str, str]

    def record(self) -> dict[str, object]:
        """All of it as one JSON record."""
        targets = [target.row() for target in self.targets]
        return {"rows": list(self.rows), "targets": targets, "missing": dict(self.missing)}


def bench_plan(
    *,
    eplb: Path | None = None,
    cases: Sequence[PlanCase] = CASES,
    runs: int = 5,
    seed: int = 0,
    on_done: Callable[[int], None] | None = None,
) -> BenchFound:
    """Planning time, joint chance of recovery and balance (equal replicas' and LP's) of every planner on every case."""
    planners: dict[str, Callable[[Ints, PlanCase], list[Placement]]] = {
        method: _ours(method) for method in ("best", "mro", "spread", "eplb")
    }
    planners["greedy MRO"] = lambda loads, case: greedy_plan(loads, case.nodes, case.slots)
    missing = {}
    if eplb is None:
        missing["EPLB"] = "no file given; --eplb FILE runs DeepSeek's eplb.py"
    else:
        rebalanced = load_eplb(eplb)
        planners["EPLB (file)"] = lambda loads, case: rebalanced(loads, case.nodes, case.slots)
    rows, targets = list[Row](), list[Target]()
    for case in cases:
        loads = zipf_loads(case.layers, case.experts, seed=seed, tokens=case.experts * 4000)
        found = {name: _plan_row(case, name, planner, loads, runs) for name, planner in planners.items()}
        rows += found.values()
        targets += _plan_targets(case, found, loads, runs)
        if on_done is not None:
            on_done(1)
    return BenchFound(rows, targets, missing)


def _ours(method: str) -> Callable[[Ints, PlanCase], list[Placement]]:
    def planned(loads: Ints, case: PlanCase) -> list[Placement]:
        return list(plan_model(loads, case.nodes, case.slots, method=method, split="equal").placements)

    return planned


def _plan_row(
    case: PlanCase, name: str, planner: Callable[[Ints, PlanCase], list[Placement]], loads: Ints, runs: int
) -> Row:
    took = measure(lambda: planner(loads, case), runs=runs, warmup=1)
    placements = planner(loads, case)
    joint = chances(placements, COUNTS)
    row: Row = {"case": case.name, "planner": name, "ms": took.median_s * 1e3, "spread": took.spread}
    row |= {f"k={k}": joint[k].value for k in COUNTS}
    return row | {f"balance {kind}": balance(loads, split_model(placements, loads, kind)) for kind in ("equal", "lp")}


def _plan_targets(case: PlanCase, found: Mapping[str, Row], loads: Ints, runs: int) -> list[Target]:
    ahead = min(
        float(found["best"][f"k={k}"]) - max(float(found[name][f"k={k}"]) for name in ("mro", "spread")) for k in COUNTS
    )
    targets = [Target(f"{case.name}: joint recovery over the better of MRO and spread", ahead, 0.0, at_least=True)]
    if case.target_ms is not None:
        whole = measure(lambda: plan_model(loads, case.nodes, case.slots), runs=runs, warmup=1)
        targets.append(Target(f"{case.name}: plan with LP split, ms", whole.median_s * 1e3, case.target_ms))
    return targets


def bench_dispatch(*, experts: int = 64, ranks: int = 64, runs: int = 50, seed: int = 0) -> BenchFound:
    """The dispatch table of 64 experts × 64 ranks: ours, the same as a loop, and the limit: zeros written."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, 200, (experts, ranks))
    cap = rng.permuted(tokens, axis=1)
    rows = list[Row]()
    limit = measure(lambda: np.full((experts, ranks, ranks), 0, np.int64), runs=runs, warmup=5)
    ours = measure(lambda: schedule(tokens, cap), runs=runs, warmup=5)
    loop = measure(lambda: schedule_by_loop(tokens, cap), runs=3, warmup=1)
    for name, took in (("schedule", ours), ("Python loop", loop), ("zeros (limit)", limit)):
        rows.append({"name": name, "ms": took.median_s * 1e3, "× limit": took.median_s / limit.median_s})
    size = f"{experts}x{ranks}"
    return BenchFound(rows, [Target(f"dispatch table of {size}, ms", ours.median_s * 1e3, 1.0)], {})


def schedule_by_loop(tokens: Ints, cap: Ints) -> Ints:
    """`schedule` written as the loop over ranks that it replaces."""
    experts, ranks = tokens.shape
    table = np.zeros((experts, ranks, ranks), np.int64)
    for e in range(experts):
        kept = np.minimum(tokens[e], cap[e])
        table[e][np.diag_indices(ranks)] = kept
        surplus, room, target = (tokens[e] - kept).tolist(), (cap[e] - kept).tolist(), 0
        for source in range(ranks):
            while surplus[source]:
                moved = min(surplus[source], room[target])
                table[e, source, target] += moved
                surplus[source] -= moved
                room[target] -= moved
                target += room[target] == 0
    return table


def bench_simulate(*, trace: Path | None = None, trials: int = 20, seed: int = 0) -> BenchFound:
    """GPT-L in the paper's two settings, every policy; and node events simulated per minute of `best` over 30 days."""
    cost, loads = read_cost(None, "gpt-l"), zipf_loads(12, 16, seed=seed)
    settings = {
        "failure every 5 min": SimRequest(mtbf_s=300.0, arrivals="fixed", horizon_s=1800.0, trials=trials, seed=seed)
    }
    missing = {}
    if trace is None:
        missing["spot trace"] = "no file given; --trace FILE takes Bamboo's p3 trace"
    else:
        settings["spot trace, first 80 min"] = SimRequest(trace=trace, horizon_s=4800.0, trials=1, seed=seed)
    rows, targets = list[Row](), list[Target]()
    for name, request in settings.items():
        found = {one.summary.policy: one.summary for one in run_policies(chosen_policies("all", cost, loads), request)}
        base = found["ds"].samples
        rows += [
            {"setting": name, "policy": one.policy, "samples": one.samples, "× ds": one.samples / base if base else 0.0}
            for one in found.values()
        ]
        bar = RATIO_TARGETS[name]
        targets.append(Target(f"{name}: best over DS", found["best"].samples / base, bar, at_least=True))
    long = SimRequest(mtbf_s=120.0, replace_after_s=240.0, horizon_s=30 * 86_400.0, trials=1, seed=seed)
    (best,) = chosen_policies("best", cost, loads)
    events = next(iter(run_policies([best], long))).summary.node_events
    took = measure(lambda: list(run_policies(chosen_policies("best", cost, loads), long)), runs=3, warmup=0)
    targets.append(Target("node events a minute", events / took.median_s * 60, EVENTS_TARGET, at_least=True))
    return BenchFound(rows, targets, missing)
