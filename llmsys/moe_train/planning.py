"""From loads to a plan: replicas, columns and shares of every layer, on nodes that all layers see in one order.

All layers fail together, so the order of nodes is one decision and `best` is scored by the joint chance. Knows no
process: the same plans are printed, trained on and simulated.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llmsys.moe_train.allocation import allocate, allocate_greedily, checked_loads, usable_threshold
from llmsys.moe_train.bounds import recovery_bound
from llmsys.moe_train.failures import FailureModel
from llmsys.moe_train.methods import METHODS, PlacementTask
from llmsys.moe_train.placement import Placement, checked_replicas
from llmsys.moe_train.recovery import chances
from llmsys.moe_train.splits import balance, split_model

__all__ = ["ModelPlan", "certified", "place", "plan_model"]

EXACT = 1e-12

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """All layers on the living nodes: column j of every layer is node `node_ids[j]`, ids ascending.

    `loads` [L, E] tokens the plan was made for; `splits`: shares [E, N] per layer; `threshold` the f that the slots
    allowed.
    """

    node_ids: tuple[int, ...]
    placements: tuple[Placement, ...]
    splits: tuple[Floats, ...]
    loads: Ints
    threshold: int

    @property
    def slots(self) -> int:
        """c: experts that a node takes per layer."""
        return self.placements[0].slots

    @property
    def experts(self) -> int:
        """E: experts of a layer."""
        return self.placements[0].experts

    def balance(self) -> float:
        """Busiest over mean node, as `splits.balance`."""
        return balance(self.loads, self.splits)

    def on(self, mapping: Sequence[int]) -> "ModelPlan":
        """The same plan with column x on node mapping[x], columns in ascending order of node ids."""
        order = np.argsort(np.asarray(mapping), kind="stable")
        placements = (replace(placement, columns=placement.columns[order]) for placement in self.placements)
        splits = (split[:, order] for split in self.splits)
        ids = tuple(int(mapping[column]) for column in order)
        return replace(self, node_ids=ids, placements=tuple(placements), splits=tuple(splits))


def plan_model(
    loads: ArrayLike,
    nodes: int,
    slots: int,
    *,
    f: int = 2,
    method: str = "best",
    split: str = "lp",
    failures: FailureModel | None = None,
    node_ids: Sequence[int] | None = None,
) -> ModelPlan:
    """Plan every layer of `loads` [L, E] (tokens, integers) for `nodes` nodes of `slots` slots.

    `node_ids` (default 0, 1, …) are sorted. Raises PlanError where the slots cannot hold every expert, ValueError for
    an unknown method or split, ragged or negative loads.
    """
    table = np.stack([checked_loads(row) for row in np.atleast_2d(np.asarray(loads))])
    world = failures or FailureModel.of_nodes(nodes)
    threshold = usable_threshold(table.shape[1], nodes, slots, f)
    replicas = [
        allocate_greedily(row, nodes, slots) if method == "eplb" else allocate(row, nodes, slots, f) for row in table
    ]
    shown = _placed(PlacementTask(replicas, slots, table, world, threshold), method)
    ids = tuple(sorted(node_ids)) if node_ids is not None else tuple(range(nodes))
    if len(set(ids)) != nodes:
        raise ValueError(f"node ids {ids}; expected {nodes} different ones")
    return ModelPlan(ids, tuple(shown), split_model(shown, table, split), table, threshold)


def place(
    r: ArrayLike,
    nodes: int,
    slots: int,
    method: str = "best",
    weights: Mapping[int, float] | None = None,
    *,
    loads: ArrayLike | None = None,
    f: int = 2,
) -> Placement:
    """Place one layer's replicas r [E] on `nodes` nodes of `slots` slots.

    `weights` maps k failures to their share of the objective Σ_k w_k P(k), which `best` raises after the certainty to
    survive fewer than f failures; `eplb` looks at `loads` [E] (default: r). Raises ValueError
    for an unknown method or replicas that do not fill the slots.
    """
    replicas = checked_replicas(r, nodes, slots)
    world = FailureModel.of_nodes(nodes, weights)
    threshold = min(f, int(replicas.min()), nodes)
    table = np.asarray(replicas if loads is None else loads, dtype=np.int64)[None]
    return _placed(PlacementTask([replicas], slots, table, world, threshold), method)[0]


def certified(placements: Sequence[Placement], world: FailureModel) -> list[Placement]:
    """The placements with their bounds for the counts of the world's weights, and `optimal` where that is proven.

    Bounds are known for nodes that fail one by one and alike; elsewhere nothing is claimed.
    """
    counts = sorted(world.weights)
    if world.domains != len(world.domain_of) or not world.is_uniform:
        return [replace(placement, optimal=False, bound={}) for placement in placements]
    shown = []
    for placement in placements:
        bound = recovery_bound(placement.replicas(), placement.nodes, placement.slots, counts)
        optimal = placement.optimal or _attains([placement], bound, world)
        shown.append(replace(placement, optimal=optimal, bound=bound))
    return shown


def _attains(placements: Sequence[Placement], bound: Mapping[int, float], world: FailureModel) -> bool:
    found = chances(placements, sorted(bound), world)
    return all(chance.exact and chance.value >= bound[k] - EXACT for k, chance in found.items())


def _placed(task: PlacementTask, method: str) -> list[Placement]:
    if method not in METHODS:
        raise ValueError(f"placement {method!r}; expected one of {', '.join(METHODS)}")
    return certified(METHODS[method](task), task.world)
