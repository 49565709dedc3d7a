"""The simulator's costs from the events of a real run: what a step, a change, a checkpoint and a byte took.

A step is fitted as `step_fixed_s + batch · sample_s · balance / n` by least squares over all steps that nothing else
fell into; on shared cores n workers are no n machines, and the fit says what these were. Knows no simulator's policy.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any

import numpy as np

from llmsys.errors import LlmsysError
from llmsys.moe_train.plan_bench import BenchFound
from llmsys.moe_train.sim.cost import CostModel
from llmsys.moe_train.train.config import RunConfig
from llmsys.moe_train.train.nursery import Nursery
from llmsys.moe_train.train.planner import Planner
from llmsys.moe_train.train.trainer import Trainer

__all__ = ["bench_calibrate", "fit_cost"]

LEAST = 1e-9  # of what has to be positive
WORKERS, SLOTS, SEQ, BATCH, CKPT_EVERY, LAP = 2, 8, 64, 16, 10, 24

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Interval:
    """The time between two steps that follow each other with nothing but checkpoints between."""

    seconds: float
    work: float  # balance / workers of the later step
    saving: bool


def fit_cost(events: Sequence[Record], config: RunConfig) -> CostModel:
    """The costs of the run of `config` that told `events`. Raises LlmsysError for fewer than two undisturbed steps.

    Where nothing of a kind happened, a change or a checkpoint costs nothing and the link is the default's.
    """
    found = _intervals(events, config.ckpt_every)
    plain = [one for one in found if not one.saving]
    if len(plain) < 2:
        raise LlmsysError(f"{len(plain)} steps that nothing fell into; expected two at least to fit costs to")
    fixed_s, sample_s = _step_costs(plain, config.batch)
    mean_s = fmean(one.seconds for one in plain)
    extra = [one.seconds - mean_s for one in found if one.saving]
    changes = [event for event in events if event["event"] == "reconfigure" and event["epoch"] > 1]
    moved = sum(change["bytes"] for change in changes)
    moving_s = sum(change["transfer_s"] for change in changes if change["bytes"])
    first = next(event for event in events if event["event"] == "step")
    return CostModel(
        sample_s=max(sample_s, LEAST),
        step_fixed_s=fixed_s,
        batch=config.batch,
        slots=config.slots,
        min_replicas=config.min_replicas,
        expert_mb=Planner(config).state_bytes / 1e6,
        link_gbps=moved * 8 / moving_s / 1e9 if moved and moving_s > 0 else CostModel().link_gbps,
        reconfigure_s=fmean(one["total_s"] - one["transfer_s"] for one in changes) if changes else 0.0,
        restart_s=first["t_s"],
        ckpt_s=max(fmean(extra), 0.0) if extra else 0.0,
        ckpt_every=config.ckpt_every,
        join_wait_s=config.join_wait_s,
    )


def bench_calibrate(*, runs: int, seed: int, nursery: Nursery | None = None) -> tuple[CostModel, BenchFound]:
    """Run with a death and a join `runs` times, and fit; the costs and a row of them."""
    laps = range(runs)
    faults = ";".join(f"{LAP * lap + LAP // 3}:kill:{1 + lap};{LAP * lap + 2 * LAP // 3}:add:1" for lap in laps)
    with tempfile.TemporaryDirectory(prefix="llmsys-moe-") as place:
        config = RunConfig(
            steps=(runs + 1) * LAP,
            seq=SEQ,
            batch=BATCH,
            workers=WORKERS,
            slots=SLOTS,
            heartbeat_s=10.0,
            ckpt_every=CKPT_EVERY,
            out=place,
            faults=faults,
            seed=seed,
        )
        cost = fit_cost(list(Trainer(config).run(nursery)), config)
    names = ("sample_s", "step_fixed_s", "link_gbps", "reconfigure_s", "restart_s", "ckpt_s", "expert_mb")
    return cost, BenchFound([{"what": name, "measured": float(getattr(cost, name))} for name in names], [], {})


def _intervals(events: Sequence[Record], ckpt_every: int) -> list[_Interval]:
    """Of all pairs of steps that follow each other undisturbed."""
    relevant = [event for event in events if event["event"] != "checkpoint"]
    return [
        _Interval(later["t_s"] - earlier["t_s"], later["balance"] / later["workers"], earlier["step"] % ckpt_every == 0)
        for earlier, later in pairwise(relevant)
        if earlier["event"] == later["event"] == "step"
    ]


def _step_costs(intervals: Sequence[_Interval], batch: int) -> tuple[float, float]:
    """Seconds of a step in any case and per sample, neither below 0, of least squared error."""
    from scipy.optimize import nnls

    table = np.array([[1.0, batch * one.work] for one in intervals])
    solution, _ = nnls(table, np.array([one.seconds for one in intervals]))
    return float(solution[0]), float(solution[1])
