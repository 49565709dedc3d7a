"""What a worker has of a run and how far it is: brought to a new plan, followed up, restored, compared with others'.

Everything here happens between the building of a group and the order to train. Knows no supervisor's messages but the
assignment, and no processes.
"""

from functools import partial
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from llmsys.errors import LlmsysError
from llmsys.moe_train.train.checkpoint import Checkpoint
from llmsys.moe_train.train.communicator import Communicator
from llmsys.moe_train.train.config import RunConfig
from llmsys.moe_train.train.messages import Assign, StepReport
from llmsys.moe_train.train.state import TrainingState, expert_numbers, fresh_expert_state
from llmsys.moe_train.train.step import Assignment, Stepper
from llmsys.moe_train.train.transfer import fetch_experts

__all__ = ["Replica", "odd_one_out"]

Key = tuple[int, int]


class Replica:
    """`decided`: steps whose vote is known, -1 without a model; `report` of the last; `assigned`: what to hold."""

    def __init__(self, config: RunConfig, comm: Communicator, stepper: Stepper) -> None:
        self.config = config
        self.decided = -1
        self.report: StepReport | None = None
        self._comm, self._stepper = comm, stepper
        self._dtype: torch.dtype = getattr(torch, config.dtype)
        self._state: TrainingState | None = None
        self._assigned: Assignment | None = None
        self._extras: dict[Key, Tensor] = {}

    @property
    def state(self) -> TrainingState:
        """Weights and moments; there are some once the first assignment is prepared."""
        assert self._state is not None
        return self._state

    @property
    def assigned(self) -> Assignment:
        """The assignment that was prepared last."""
        assert self._assigned is not None
        return self._assigned

    def prepare(self, order: Assign) -> None:
        """Bring everything to where the order wants it. Raises EpochChanged; then what is here is still whole."""
        splits = [np.asarray(split, dtype=np.float64) for split in order.splits]
        assigned = Assignment(tuple(order.members), tuple(order.holders), order.columns, splits)
        if order.restore is not None:
            self._restore(order, assigned)
        else:
            self._follow(order)
            self._welcome(order)
            empty = torch.zeros(0, expert_numbers(self.config.model), dtype=self._dtype)
            codec = self.config.transfer_codec
            fetch_experts(order.moves, self._expert, empty, self._comm, self._extras, codec=codec)
            self._install(assigned)
        self._assigned = assigned

    def drop_extras(self) -> None:
        """Forget the experts that are others' now: they have them."""
        self._extras = {}

    def step(self) -> tuple[StepReport, bool]:
        """Decide the next step: its report, and whether all are to pause after it. Raises EpochChanged."""
        self.report, pause = self._stepper.take(self.decided + 1, self.state, self.assigned)
        self.decided = self.report.step
        return self.report, pause

    def holdings(self) -> list[list[int]]:
        """The experts whose state is whole here, per mixture."""
        if self._state is None:
            return [[] for _ in self.config.model.mixtures]
        found = [set(layer) for layer in self._state.held()]
        for mixture, expert in self._extras:
            found[mixture].add(expert)
        return [sorted(layer) for layer in found]

    def audit(self) -> None:
        """Compare what several workers hold. Raises LlmsysError that names what differs and where, EpochChanged."""
        shape = self.config.model
        keys = [(mixture, expert) for mixture in range(len(shape.mixtures)) for expert in range(shape.experts)]
        mine = torch.zeros(len(keys) + 1, dtype=torch.int64)
        mine[0] = _digest(self.state.dense_state())
        for mixture, row in enumerate(self.state.held()):
            for expert in row:
                mine[1 + keys.index((mixture, expert))] = _digest(self.state.expert(mixture, expert))
        found = odd_one_out(self._comm.all_gather(mine).tolist())
        if found is not None:
            rank, place = found
            name = "what all hold" if place == 0 else "expert {1} of mixture {0}".format(*keys[place - 1])
            who = self._comm.members[rank]
            raise LlmsysError(f"after step {self.decided} worker {who} differs in {name}; expected equal copies")

    def _follow(self, order: Assign) -> None:
        """Apply the step that passed its vote elsewhere, if this worker missed it."""
        if self.decided in (-1, order.decided):
            return
        synced = self._stepper.synced
        assert synced is not None
        assert synced.step == order.decided == self.decided + 1
        self._stepper.settle(self.state, skipped=order.skipped)
        self.decided = order.decided

    def _welcome(self, order: Assign) -> None:
        """Give newcomers what all hold."""
        if not order.newcomers:
            return
        state = self._state or self._new_state()
        shared = self._comm.broadcast(state.dense_state(), order.members.index(order.source))
        if self._comm.worker in order.newcomers:
            state.load_dense_state(shared)
            self._state, self.decided = state, order.decided

    def _restore(self, order: Assign, assigned: Assignment) -> None:
        """Start from a checkpoint, or from scratch."""
        state = self._new_state()
        wanted = assigned.experts_of(self._comm.worker)
        if order.restore:
            checkpoint = Checkpoint(Path(order.restore))
            checkpoint.load_dense(state)
            state.hold([{one: checkpoint.expert(mixture, one) for one in row} for mixture, row in enumerate(wanted)])
        else:
            fresh = partial(fresh_expert_state, self.config.model, seed=self.config.seed, dtype=self._dtype)
            state.hold([{one: fresh(mixture, one) for one in row} for mixture, row in enumerate(wanted)])
        self._state, self._extras = state, {}
        self.report, self.decided = None, order.decided

    def _install(self, assigned: Assignment) -> None:
        """Hold what is assigned; keep the rest aside until all others are ready too."""
        state = self.state
        wanted = assigned.experts_of(self._comm.worker)
        if [set(layer) for layer in state.held()] == wanted:
            return
        held = [(mixture, expert) for mixture, row in enumerate(state.held()) for expert in row]
        pool = self._extras | {key: state.expert(*key) for key in held}
        state.hold([{expert: pool[mixture, expert] for expert in row} for mixture, row in enumerate(wanted)])
        self._extras = {key: vector for key, vector in pool.items() if key[1] not in wanted[key[0]]}

    def _expert(self, mixture: int, expert: int) -> Tensor:
        found = self._extras.get((mixture, expert))
        return self.state.expert(mixture, expert) if found is None else found

    def _new_state(self) -> TrainingState:
        config = self.config
        return TrainingState(
            config.model, seed=config.seed, dtype=self._dtype, lr=config.lr, optimizer=config.optimizer
        )


def odd_one_out(digests: list[list[int]]) -> tuple[int, int] | None:
    """The first (rank, column) of a table [ranks][columns] that differs from most of its column; 0 holds nothing.

    >>> odd_one_out([[7, 3], [7, 0], [5, 3]])
    (2, 0)
    """
    for place, column in enumerate(zip(*digests, strict=True)):
        values = [value for value in column if value]
        if len(set(values)) > 1:
            return column.index(min(values, key=values.count)), place
    return None


def _digest(values: Tensor) -> int:
    """A number other than 0 that tells contents apart."""
    digest = blake2b(values.contiguous().view(torch.uint8).numpy().tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True) | 1
