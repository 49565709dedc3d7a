"""One training step in two phases: gradients summed over all ranks, then a vote; nothing changes before it passes.

The summed gradient is kept until the next step's, so that a worker that missed a vote which passed elsewhere can still
follow. Knows no supervisor; the caller says what a lost peer means.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from llmsys.moe_train.train.communicator import Communicator
from llmsys.moe_train.train.config import RunConfig
from llmsys.moe_train.train.corpus import Corpus, share, step_windows
from llmsys.moe_train.train.dropout import SampleDropout
from llmsys.moe_train.train.faults import FaultPoint
from llmsys.moe_train.train.gradients import sum_segments
from llmsys.moe_train.train.messages import StepReport
from llmsys.moe_train.train.mixture import StepContext
from llmsys.moe_train.train.routing import Route
from llmsys.moe_train.train.state import Gradients, TrainingState

__all__ = ["Assignment", "Stepper", "Synced"]

Key = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Assignment:
    """Who holds what in an epoch: `columns` [mixtures][N] slots of the workers `holders`, `splits` [E, N] by column."""

    members: tuple[int, ...]
    holders: tuple[int, ...]
    columns: Sequence[Sequence[Sequence[int]]]
    splits: Sequence[NDArray[np.float64]]

    def experts_of(self, worker: int) -> list[set[int]]:
        """The experts that a worker is to hold, per mixture."""
        if worker not in self.holders:
            return [set() for _ in self.columns]
        place = self.holders.index(worker)
        return [set(layer[place]) for layer in self.columns]

    def splits_by_rank(self) -> tuple[NDArray[np.float64], ...]:
        """[E, members]: shares, 0 for members that hold nothing."""
        found = []
        for split in self.splits:
            wide = np.zeros((len(split), len(self.members)))
            wide[:, [self.members.index(worker) for worker in self.holders]] = split
            found.append(wide)
        return tuple(found)

    def segments(self, experts: int) -> tuple[list[Key], list[list[int]]]:
        """All (mixture, expert), and the ranks that hold each."""
        keys, groups = [], []
        ranks = [self.members.index(worker) for worker in self.holders]
        for mixture, layer in enumerate(self.columns):
            for expert in range(experts):
                keys.append((mixture, expert))
                groups.append([rank for rank, column in zip(ranks, layer, strict=True) if expert in column])
        return keys, groups

    def batch_share(self, windows: Sequence[int], worker: int) -> Sequence[int]:
        """The windows that a worker computes: none without experts, so that a leaving worker only helps to move."""
        if worker not in self.holders:
            return []
        return share(windows, self.holders.index(worker), len(self.holders))


@dataclass(frozen=True, slots=True)
class Synced:
    """A step whose gradients are summed: what remains is the vote. `counts` as in its report."""

    step: int
    gradients: Gradients
    counts: list[list[int]]


@dataclass(slots=True)
class Stepper:
    """Takes steps of one run on one worker."""

    config: RunConfig
    corpus: Corpus
    comm: Communicator
    faults: FaultPoint
    wants_pause: Callable[[], bool]
    synced: Synced | None = field(default=None)

    def take(self, step: int, state: TrainingState, assigned: Assignment) -> tuple[StepReport, bool]:
        """Decide one step: its report, and whether all workers are to pause after it.

        Raises EpochChanged with the state as it was before.
        """
        started = time.monotonic()
        state.model.zero_grad()  # an interrupted try may have left some
        self.faults.reach("forward", step)
        loss, context = self._forward(step, state, assigned)
        self.faults.reach("backward", step)
        weight = self.config.balance_weight if self.config.model.balance == "loss" else 0.0
        total = loss + weight * context.balance_loss
        total.backward()  # type: ignore[no-untyped-call]
        self.faults.drag(step, time.monotonic() - started)
        self.faults.reach("sync", step)
        counts = [route.tokens.tolist() for route in context.routes]
        self.synced = Synced(step, self._summed(state, assigned), counts)
        self.faults.reach("vote", step)
        numbers = [float(not self.synced.gradients.finite()), float(self.wants_pause())]
        losses = [float(loss.detach()), float(context.balance_loss.detach())]
        bad, pause, loss_sum, balance_sum = self.comm.all_reduce(
            torch.tensor(numbers + losses, dtype=torch.float64)
        ).tolist()
        self.faults.reach("apply", step)
        report = self._report(step, (loss_sum, balance_sum), context.routes, skipped=bad > 0)
        self.settle(state, skipped=report.skipped)
        return report, pause > 0

    def settle(self, state: TrainingState, *, skipped: bool) -> None:
        """Apply the summed gradient that is kept, unless the vote was to skip it."""
        assert self.synced is not None
        if not skipped:
            state.apply(self.synced.gradients)
            state.nudge(self.synced.counts)

    def _forward(self, step: int, state: TrainingState, assigned: Assignment) -> tuple[Tensor, StepContext]:
        """This rank's part of the mean loss over all tokens, in the run's number format."""
        config = self.config
        windows = step_windows(step, config.batch, self.corpus.windows(config.seq), config.seed)
        mine = assigned.batch_share(windows, self.comm.worker)
        rows = np.stack([self.corpus.window(number, config.seq) for number in mine]) if mine else None
        text = torch.from_numpy(np.zeros((0, config.seq + 1), np.int64) if rows is None else rows.astype(np.int64))
        tokens = config.batch * config.seq
        context = StepContext(
            self.comm,
            assigned.splits_by_rank(),
            tokens,
            on_dispatch=lambda: self.faults.reach("dispatch", step),
            drop=SampleDropout(config.model.dropout, config.seed, step, mine),
        )
        logits = state.model(text[:, :-1], context)
        targets = text[:, 1:].reshape(-1)
        return F.cross_entropy(logits.reshape(len(targets), -1), targets, reduction="sum") / tokens, context

    def _summed(self, state: TrainingState, assigned: Assignment) -> Gradients:
        dense, experts = state.gradients()
        keys, groups = assigned.segments(self.config.model.experts)
        everyone = list(range(self.comm.size))
        summed = sum_segments(
            [dense, *(experts.get(key) for key in keys)],
            [everyone, *groups],
            self.comm,
            codec=self.config.grad_codec,
        )
        return Gradients(summed[0], dict(zip([key for key in keys if key in experts], summed[1:], strict=True)))

    def _report(self, step: int, losses: tuple[float, float], routes: list[Route], *, skipped: bool) -> StepReport:
        mean = sum(float(route.computed.mean()) for route in routes)
        return StepReport(
            step=step,
            loss=losses[0],
            balance_loss=losses[1],
            tokens=self.config.batch * self.config.seq,
            workers=self.comm.size,
            skipped=skipped,
            moved=sum(route.moved for route in routes),
            balance=sum(int(route.computed.max()) for route in routes) / mean,
            counts=[route.tokens.tolist() for route in routes],
        )
