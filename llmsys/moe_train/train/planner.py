"""Plans for the workers that live: from loads and what each of them holds to columns and moves.

Stands on the planner that `llmsys moe-train plan` and `simulate` use. Knows no processes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from llmsys.moe_train.migration import Move, migrate
from llmsys.moe_train.placement import Placement
from llmsys.moe_train.planning import ModelPlan, plan_model
from llmsys.moe_train.splits import balance
from llmsys.moe_train.train.config import RunConfig
from llmsys.moe_train.train.state import expert_numbers

__all__ = ["Planner", "Transfer", "find_transfer"]

LOAD_UNIT = 1000  # loads are averages; the planner counts in integers
NUMBER_BYTES = {"float32": 4, "float64": 8, "bfloat16": 2}

Holdings = Mapping[int, Sequence[Sequence[int]]]


@dataclass(frozen=True, slots=True)
class Transfer:
    """A plan on worker ids, and who sends what to whom for it."""

    plan: ModelPlan
    moves: tuple[Move, ...]

    @property
    def bytes(self) -> int:
        """Bytes sent in all."""
        return sum(move.bytes for move in self.moves)


class Planner:
    """Keeps the average loads of a run and plans by them. Loads are even until the first step."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._loads = np.ones((len(config.model.mixtures), config.model.experts))
        self._seen = 0

    @property
    def state_bytes(self) -> int:
        """Bytes of one expert's state."""
        return expert_numbers(self._config.model) * NUMBER_BYTES[self._config.dtype]

    @property
    def loads(self) -> NDArray[np.int64]:
        """The average copies of an expert in a step, in thousandths, [mixtures, E]."""
        return np.rint(self._loads * LOAD_UNIT).astype(np.int64)

    def observe(self, counts: Sequence[Sequence[int]]) -> None:
        """Take a step's copies per mixture and expert into the moving average."""
        self._seen += 1
        weight = 1.0 / min(self._seen, self._config.load_window)
        self._loads += weight * (np.asarray(counts, dtype=np.float64) - self._loads)

    def plan(self, workers: Sequence[int]) -> ModelPlan:
        """A plan for these workers. Raises PlanError where their slots cannot hold every expert."""
        config = self._config
        return plan_model(
            self.loads,
            len(workers),
            config.slots,
            f=config.min_replicas,
            method=config.placement,
            split=config.split,
            node_ids=workers,
        )

    def predicted_balance(self, splits: Sequence[NDArray[np.float64]]) -> float:
        """Busiest over mean worker of these splits under the average loads."""
        return balance(self.loads, splits)


def find_transfer(
    new: ModelPlan, holdings: Holdings, staying: Sequence[int], *, state_bytes: int, mapping: str = "optimal"
) -> Transfer:
    """Map a plan to the `staying` workers and find the moves; others in `holdings` leave, and send what only they hold.

    `holdings[worker][mixture]`: experts whose state is whole there. Raises Unrecoverable for experts that nobody holds.
    """
    kept, given = _with_gifts(holdings, staying)
    found = migrate(_as_plan(kept, new), staying, new, state_bytes=state_bytes, mapping=mapping)
    placed = new.on(found.mapping)
    moves = [replace(move, source=given.get((move.layer, move.expert), move.source)) for move in found.moves]
    for (mixture, expert), source in given.items():
        receiver = next(worker for worker in staying if expert in kept[worker][mixture])
        column = placed.placements[mixture].columns[placed.node_ids.index(receiver)]
        if expert in column:
            moves.append(Move(mixture, expert, source, receiver, state_bytes))
    return Transfer(placed, tuple(moves))


def _with_gifts(
    holdings: Holdings, staying: Sequence[int]
) -> tuple[dict[int, list[set[int]]], dict[tuple[int, int], int]]:
    """What stays, where the lowest worker is credited with what only leaving ones hold; and who really holds that."""
    kept = {worker: [set(layer) for layer in holdings.get(worker, ())] for worker in staying}
    mixtures = max((len(layers) for layers in holdings.values()), default=0)
    for layers in kept.values():
        layers.extend(set() for _ in range(mixtures - len(layers)))
    whole = [worker for worker, layers in kept.items() if layers and all(layers)]
    receiver = min(whole or staying)
    given = {}
    for worker in sorted(holdings.keys() - set(staying)):
        for mixture, layer in enumerate(holdings[worker]):
            for expert in layer:
                if not any(expert in layers[mixture] for layers in kept.values()):
                    kept[receiver][mixture].add(expert)
                    given[mixture, expert] = worker
    return kept, given


def _as_plan(kept: Mapping[int, Sequence[set[int]]], new: ModelPlan) -> ModelPlan:
    """The workers that hold something in every mixture as a plan; columns repeat an expert to be of one length."""
    known = sorted(worker for worker, layers in kept.items() if layers and all(layers))
    placements = []
    for mixture, placement in enumerate(new.placements):
        rows = [sorted(kept[worker][mixture]) for worker in known]
        width = max((len(row) for row in rows), default=1)
        columns = np.array([row + row[:1] * (width - len(row)) for row in rows], np.int64).reshape(len(rows), width)
        placements.append(Placement(columns, placement.experts))
    return replace(new, node_ids=tuple(known), placements=tuple(placements))
