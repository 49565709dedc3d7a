"""Policies that place experts as the trainer does: the same plans, the same migrations, looked up where they repeat.

Loads stay as given for the whole run. Knows no time.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmsys.moe_train.errors import Unrecoverable
from llmsys.moe_train.failures import FailureModel
from llmsys.moe_train.migration import migrate
from llmsys.moe_train.planning import ModelPlan, plan_model
from llmsys.moe_train.sim.cost import CostModel, per_policy
from llmsys.moe_train.sim.engine import Change, Pace

__all__ = ["IdealPolicy", "PlannedPolicy"]


class IdealPolicy:
    """All nodes work all the time, evenly: no failure costs anything."""

    name = "ideal"
    note = "an upper limit: every node that is there works evenly, changes and checkpoints are free"
    join_wait_s = 0.0

    def __init__(self, cost: CostModel) -> None:
        self._cost = cost

    def start(self, alive: Sequence[int]) -> Change:
        """All begin, at once."""
        return Change(tuple(alive), "compute" if alive else "idle")

    def change(self, layout: tuple[int, ...], lost: frozenset[int], alive: Sequence[int]) -> Change:
        """All that are there go on."""
        return Change(tuple(alive), "compute" if alive else "idle")

    def pace(self, layout: tuple[int, ...]) -> Pace:
        """An even step without checkpoints."""
        return Pace(self._cost.step_s(len(layout), 1.0, self.name), self._cost.batch, self._cost.batch, 0.0)


@dataclass(frozen=True, slots=True)
class _Move:
    """From one layout to the next: which candidate takes which column, and the bytes that the busiest sender sends."""

    order: tuple[int, ...]
    max_send_bytes: int


class PlannedPolicy:
    """Lazarus, or what this package does instead: the layout is the plan's columns, in order."""

    def __init__(
        self, name: str, note: str, cost: CostModel, loads: NDArray[np.int64], *, method: str, mapping: str
    ) -> None:
        self.name = name
        self.note = note
        self.join_wait_s = cost.join_wait_s
        self._cost = cost
        self._loads = loads
        self._method = method
        self._mapping = mapping
        self._plans: dict[int, ModelPlan] = {}
        self._paces: dict[int, Pace] = {}
        self._known: dict[tuple[int, int, int], _Move | None] = {}

    def start(self, alive: Sequence[int]) -> Change:
        """Restart from the checkpoint on all nodes, where they can hold every expert."""
        if not self._fits(len(alive)):
            return Change((), "idle", rollback=None)
        return Change(tuple(alive), "restart", per_policy(self._cost.restart_s, self.name, 0.0), None)

    def change(self, layout: tuple[int, ...], lost: frozenset[int], alive: Sequence[int]) -> Change:
        """Reconfigure to all living nodes; from the checkpoint where an expert has no copy left."""
        if not self._fits(len(alive)):
            return self.start(alive)
        living = set(alive)
        stay = [node for node in layout if node in living and node not in lost]
        come = [node for node in alive if node not in set(stay)]
        if not come and len(stay) == len(layout):
            return Change(layout, "compute")
        mask = sum(1 << column for column, node in enumerate(layout) if node not in living or node in lost)
        move = self._move(len(layout), mask, len(come))
        if move is None:
            return self.start(alive)
        candidates = stay + come
        pause = per_policy(self._cost.reconfigure_s, self.name, 0.0) + self._cost.transfer_s(move.max_send_bytes)
        return Change(tuple(candidates[place] for place in move.order), "reconfigure", pause)

    def pace(self, layout: tuple[int, ...]) -> Pace:
        """A step that waits for the plan's busiest node."""
        nodes = len(layout)
        if nodes not in self._paces:
            step_s = self._cost.step_s(nodes, self._plan(nodes).balance(), self.name)
            every = round(per_policy(self._cost.ckpt_every, self.name, 250))
            self._paces[nodes] = Pace(step_s, self._cost.batch, every, per_policy(self._cost.ckpt_s, self.name, 0.0))
        return self._paces[nodes]

    def _fits(self, nodes: int) -> bool:
        return bool(nodes * self._cost.slots >= self._loads.shape[1])

    def _plan(self, nodes: int) -> ModelPlan:
        if nodes not in self._plans:
            self._plans[nodes] = plan_model(
                self._loads,
                nodes,
                self._cost.slots,
                f=self._cost.min_replicas,
                method=self._method,
                failures=FailureModel.of_nodes(nodes),
            )
        return self._plans[nodes]

    def _move(self, before: int, lost: int, come: int) -> _Move | None:
        """The migration after losing these columns (bits) of a plan for `before` nodes; None if experts are lost."""
        key = (before, lost, come)
        if key not in self._known:
            stay = [column for column in range(before) if not lost >> column & 1]
            candidates = stay + list(range(before, before + come))
            try:
                found = migrate(
                    self._plan(before),
                    candidates,
                    self._plan(len(candidates)),
                    state_bytes=self._cost.expert_bytes,
                    mapping=self._mapping,
                )
                place = {node: number for number, node in enumerate(candidates)}
                order = tuple(place[node] for node in found.mapping)
                self._known[key] = _Move(order, found.max_send_bytes)
            except Unrecoverable:
                self._known[key] = None
        return self._known[key]
