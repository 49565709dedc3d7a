"""Ways to place the same loads, side by side: joint chance per k, balance, and which of them nothing dominates.

Knows no stream.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from llmsys.moe_train.failures import FailureModel
from llmsys.moe_train.methods import METHODS
from llmsys.moe_train.planning import ModelPlan, plan_model
from llmsys.moe_train.recovery import chances

__all__ = ["MethodRow", "compare_methods", "comparison_table", "method_row"]


@dataclass(frozen=True, slots=True)
class MethodRow:
    """One method: P(all layers survive k failures) by k, Σ_k w_k P(k), busiest over mean node; `front` if no other
    method is better in one of the last two and no worse in the other.
    """

    method: str
    joint_recovery: Mapping[int, float]
    objective: float
    balance: float
    front: bool = True

    def record(self) -> dict[str, object]:
        """The row as a JSON record."""
        return {**asdict(self), "joint_recovery": {str(k): chance for k, chance in self.joint_recovery.items()}}


def method_row(method: str, plan: ModelPlan, world: FailureModel, counts: Sequence[int], *, seed: int = 0) -> MethodRow:
    """What one method's plan is worth; its chances are sampled with `seed` where they cannot be counted."""
    found = chances(plan.placements, sorted({*counts, *world.weights}), world, seed=seed)
    value = sum(weight * found[k].value for k, weight in world.weights.items())
    return MethodRow(method, {k: found[k].value for k in counts}, value, plan.balance())


def compare_methods(
    loads: NDArray[np.int64],
    slots: int,
    world: FailureModel,
    counts: Sequence[int],
    *,
    f: int = 2,
    split: str = "lp",
    seed: int = 0,
) -> list[MethodRow]:
    """One row per method, for loads [L, E] on the nodes of `world`."""
    rows = []
    for method in METHODS:
        plan = plan_model(loads, len(world.domain_of), slots, f=f, method=method, split=split, failures=world)
        rows.append(method_row(method, plan, world, counts, seed=seed))
    return [replace(row, front=not any(_dominates(other, row) for other in rows)) for row in rows]


def comparison_table(rows: Sequence[MethodRow]) -> list[dict[str, str | float | bool]]:
    """The rows as a table for people: one column per k."""
    return [
        {
            "placement": row.method,
            **{f"k={k}": chance for k, chance in row.joint_recovery.items()},
            "objective": row.objective,
            "balance": row.balance,
            "front": row.front,
        }
        for row in rows
    ]


def _dominates(one: MethodRow, other: MethodRow) -> bool:
    no_worse = one.objective >= other.objective and one.balance <= other.balance
    return no_worse and (one.objective > other.objective or one.balance < other.balance)
