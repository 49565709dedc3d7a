"""The ways to place all layers of a model, by name.

Layers fail together, so `best` aligns them: one order of nodes, scored by the joint chance. Knows nothing of how the
replicas were counted.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from llmsys.moe_train.failures import FailureModel
from llmsys.moe_train.placement import Placement, compact, mro, pack_by_load, segment_sizes, spread
from llmsys.moe_train.recovery import chances
from llmsys.moe_train.splits import balance, equal_split
from llmsys.moe_train.swaps import improve, repair

__all__ = ["METHODS", "PlacementTask", "objective"]

CERTAIN = 1e3
DIGITS = 12

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PlacementTask:
    """What is to be placed: `replicas` [E] per layer on nodes of `slots` slots, of which less than `threshold` failures
    must be survived for certain; `loads` [L, E] tokens; `world` the failures to survive.
    """

    replicas: Sequence[Ints]
    slots: int
    loads: Ints
    world: FailureModel
    threshold: int

    @property
    def nodes(self) -> int:
        """N."""
        return len(self.world.domain_of)

    def judged(self) -> FailureModel:
        """The world in which certainty below the threshold outweighs all else."""
        certain = {k: CERTAIN + self.world.weights.get(k, 0.0) for k in range(1, min(self.threshold, self.nodes))}
        return replace(self.world, weights={**self.world.weights, **certain})


def objective(placements: Sequence[Placement], world: FailureModel) -> float:
    """Σ_k w_k P(k) of all layers together."""
    found = chances(placements, sorted(world.weights), world)
    return sum(world.weights[k] * chance.value for k, chance in found.items())


def _best(task: PlacementTask) -> list[Placement]:
    """The best of three starts by the joint objective, among equals by balance; then swaps until none helps."""
    starts = [_aligned(task), _nested(task), _spread(task)]
    order = _apart(task.world)
    mended = [[_reordered(repair(placement, task.threshold), order) for placement in start] for start in starts]
    world = task.judged()
    scores = [(round(objective(start, world), DIGITS), -_imbalance(start, task.loads)) for start in mended]
    return improve(mended[scores.index(max(scores))], world)


def _apart(world: FailureModel) -> Ints:
    """All nodes, in an order whose neighbours are in different domains and pair a hazardous one with a safe one."""
    falling = np.argsort(-np.asarray(world.hazards), kind="stable")
    turn = np.empty(world.domains, np.int64)
    if world.is_uniform:
        turn[falling] = np.arange(world.domains)
    else:
        # first, last, second, last but one, …
        turn[falling] = np.minimum(2 * np.arange(world.domains), 2 * np.arange(world.domains)[::-1] + 1)
    domain_of = np.asarray(world.domain_of)
    row = np.array([int((domain_of[:node] == domain).sum()) for node, domain in enumerate(domain_of)])
    return np.lexsort((turn[domain_of], row))


def _reordered(placement: Placement, order: Ints) -> Placement:
    """The placement with column x on node order[x]."""
    columns = np.empty_like(placement.columns)
    columns[order] = placement.columns
    return replace(placement, columns=columns)


def _imbalance(placements: Sequence[Placement], loads: Ints) -> float:
    return balance(loads, [equal_split(placement) for placement in placements])


def _nested(task: PlacementTask) -> list[Placement]:
    """MRO in every layer, with a core of nodes per group that lies in that group's segment in every layer."""
    sizes = np.array([segment_sizes(r, task.nodes, task.slots)[0] for r in task.replicas])
    core = sizes.min(axis=0)
    ends = np.cumsum(core)
    placed = []
    for r, own in zip(task.replicas, sizes, strict=True):
        order, pool = list[int](), int(ends[-1])
        for group, size in enumerate(own.tolist()):
            extra = size - int(core[group])
            order += [*range(int(ends[group] - core[group]), int(ends[group])), *range(pool, pool + extra)]
            pool += extra
        placed.append(mro(r, task.nodes, task.slots, [*order, *range(pool, task.nodes)]))
    return placed


def _aligned(task: PlacementTask) -> list[Placement]:
    return [mro(r, task.nodes, task.slots) for r in task.replicas]


def _spread(task: PlacementTask) -> list[Placement]:
    return [spread(r, task.nodes, task.slots) for r in task.replicas]


def _compact(task: PlacementTask) -> list[Placement]:
    return [compact(r, task.nodes, task.slots) for r in task.replicas]


def _packed(task: PlacementTask) -> list[Placement]:
    return [pack_by_load(r, task.nodes, task.slots, row) for r, row in zip(task.replicas, task.loads, strict=True)]


METHODS: dict[str, Callable[[PlacementTask], list[Placement]]] = {
    "best": _best,
    "mro": _aligned,
    "spread": _spread,
    "compact": _compact,
    "eplb": _packed,
}
