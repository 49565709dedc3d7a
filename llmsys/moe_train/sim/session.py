"""What `simulate` does between its options and its records: traces per trial, runs per policy, sums over trials.

Knows no stream.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llmsys.errors import UsageFault
from llmsys.moe_train.sim.bootstrap import extend_trace
from llmsys.moe_train.sim.engine import PHASES, Policy, RunResult, simulate_run
from llmsys.moe_train.sim.traces import Tick, cut_trace, draw_failures, read_availability

__all__ = ["PolicyOutcome", "SimRequest", "Summary", "TimelineRecord", "run_policies", "summary_table", "trial_ticks"]

DAY_S = 86_400.0
MOST_POINTS = 400
CONFIDENCE = 0.95
SHORT = {"compute": "work", "restart": "rest.", "reconfigure": "move"}


@dataclass(frozen=True, slots=True)
class SimRequest:
    """Where failures come from: a trace file from `start_s` on, or a failure of the cluster every `mtbf_s` seconds.

    `nodes`: at most so many work at once (of a trace), or so many there are. A horizon past the trace's end extends it
    by block bootstrap. `horizon_s` None: the whole trace, or a day of drawn failures.
    """

    trace: Path | None = None
    mtbf_s: float | None = None
    arrivals: str = "exponential"
    replace_after_s: float = math.inf
    nodes: int = 10
    start_s: float = 0.0
    horizon_s: float | None = None
    victims: str = "newest"
    trials: int = 10
    seed: int = 0


@dataclass(frozen=True, slots=True)
class TimelineRecord:
    """Where the first trial of a policy stood at an event."""

    policy: str
    t_s: float
    nodes: int
    samples: int


@dataclass(frozen=True, slots=True)
class Summary:
    """Means over trials; intervals (95 %) are of the mean, None for a single trial. `goodput` is committed samples per
    second; `breakdown` is seconds by phase and sums to the horizon.
    """

    policy: str
    trials: int
    horizon_s: float
    samples: float
    samples_interval: tuple[float, float] | None
    goodput: float
    goodput_interval: tuple[float, float] | None
    steps: float
    restarts: float
    reconfigures: float
    lost_steps: float
    node_events: float
    breakdown: dict[str, float]
    note: str
    event: str = "summary"


@dataclass(frozen=True, slots=True)
class PolicyOutcome:
    """One policy's first trial, thinned to at most MOST_POINTS points, and its summary."""

    timeline: tuple[TimelineRecord, ...]
    summary: Summary

    def line(self) -> tuple[str, list[float], list[float]]:
        """Name, hours and samples: a line of a figure."""
        hours = [point.t_s / 3600 for point in self.timeline]
        return self.summary.policy, hours, [float(point.samples) for point in self.timeline]


def trial_ticks(request: SimRequest) -> tuple[float, Iterator[Sequence[Tick]]]:
    """The horizon in seconds, and the ticks of every trial; a trace that needs no drawing is one trial.

    Raises UsageFault unless exactly one of trace and MTBF is given, and for a start past the trace's end.
    """
    if (request.trace is None) == (request.mtbf_s is None):
        raise UsageFault("give either --trace FILE or --mtbf TIME")
    if request.trace is None:
        return request.horizon_s or DAY_S, _drawn(request, request.horizon_s or DAY_S)
    ticks = read_availability(request.trace, victims=request.victims, seed=request.seed)
    left = ticks[-1].t_s - request.start_s if ticks else 0.0
    if left <= 0:
        raise UsageFault(f"--start {request.start_s:.0f}s is not within the trace, which ends before or there")
    horizon = request.horizon_s or left
    return horizon, _replayed(request, ticks, left, horizon)


def _drawn(request: SimRequest, horizon_s: float) -> Iterator[Sequence[Tick]]:
    for trial in range(request.trials):
        yield draw_failures(
            request.nodes,
            request.mtbf_s or math.inf,
            horizon_s,
            arrivals=request.arrivals,
            replace_after_s=request.replace_after_s,
            seed=request.seed + trial,
        )


def _replayed(request: SimRequest, ticks: Sequence[Tick], left: float, horizon_s: float) -> Iterator[Sequence[Tick]]:
    for trial in range(request.trials):
        kept = cut_trace(ticks, request.start_s, min(left, horizon_s))
        if horizon_s > left:
            yield extend_trace(kept, horizon_s, seed=request.seed + trial)
        elif request.victims == "random" and request.trace is not None and trial:
            again = read_availability(request.trace, victims="random", seed=request.seed + trial)
            yield cut_trace(again, request.start_s, horizon_s)
        else:
            yield kept
            if request.victims != "random":
                return


def run_policies(
    policies: Sequence[Policy], request: SimRequest, *, on_done: Callable[[int], None] | None = None
) -> Iterator[PolicyOutcome]:
    """One outcome per policy, all on the same trials; `on_done` counts finished runs. Raises as `trial_ticks`."""
    horizon, trials = trial_ticks(request)
    traces = list(trials)
    for policy in policies:
        runs = []
        for ticks in traces:
            runs.append(simulate_run(policy, ticks, horizon, most=request.nodes))
            if on_done is not None:
                on_done(1)
        yield PolicyOutcome(_thinned(policy.name, runs[0]), _summed(policy, runs, horizon))


def _thinned(name: str, run: RunResult) -> tuple[TimelineRecord, ...]:
    step = -(-len(run.timeline) // MOST_POINTS) or 1
    return tuple(TimelineRecord(name, *point) for point in run.timeline[::step])


def _summed(policy: Policy, runs: Sequence[RunResult], horizon_s: float) -> Summary:
    samples = np.array([run.samples for run in runs], np.float64)
    span = _interval(samples)
    return Summary(
        policy.name,
        len(runs),
        horizon_s,
        float(samples.mean()),
        span,
        float(samples.mean()) / horizon_s,
        (span[0] / horizon_s, span[1] / horizon_s) if span else None,
        _mean([run.steps for run in runs]),
        _mean([run.restarts for run in runs]),
        _mean([run.reconfigures for run in runs]),
        _mean([run.lost_steps for run in runs]),
        _mean([run.events for run in runs]),
        {phase: _mean([run.breakdown[phase] for run in runs]) for phase in PHASES},
        policy.note,
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _interval(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> tuple[float, float] | None:
    """The 95 % interval of the mean by Student's t; None for one value."""
    if len(values) < 2:
        return None
    from scipy.stats import t

    half = float(t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * float(values.std(ddof=1)) / math.sqrt(len(values))
    return float(values.mean()) - half, float(values.mean()) + half


def summary_table(summaries: Sequence[Summary]) -> list[dict[str, str | float]]:
    """The summaries as a table for people: samples, their ratio to DS's where it ran, and shares of time in percent."""
    base = next((one.samples for one in summaries if one.policy == "ds"), 0.0)
    rows: list[dict[str, str | float]] = []
    for one in summaries:
        half = (one.samples_interval[1] - one.samples_interval[0]) / 2 if one.samples_interval else 0.0
        row: dict[str, str | float] = {"policy": one.policy, "samples": one.samples, "±": half}
        row |= {"× ds": one.samples / base} if base else {}
        row |= {"restarts": one.restarts, "moves": one.reconfigures, "lost": one.lost_steps}
        shares = {phase: 100 * one.breakdown[phase] / one.horizon_s for phase in PHASES}
        row |= {f"{SHORT.get(phase, phase)} %": share for phase, share in shares.items()}
        rows.append(row)
    return rows
