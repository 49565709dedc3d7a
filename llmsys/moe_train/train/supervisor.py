"""The run from above: starts workers, notices deaths, plans, and brings the survivors into the next epoch.

One path for every change: interrupt all, hear how far each is and what it holds, plan for the living, move what is
missing, go. A death on the way starts it again. Losses do not depend on any of it: the batch of a step is fixed. Knows
nothing of gradients. Events are plain records, in order of time.
"""

import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from llmsys.errors import LlmsysError
from llmsys.moe_train.errors import PlanError, Unrecoverable
from llmsys.moe_train.loads import write_loads
from llmsys.moe_train.planning import ModelPlan
from llmsys.moe_train.train.change import Change
from llmsys.moe_train.train.checkpoint import newest_checkpoint
from llmsys.moe_train.train.config import RunConfig
from llmsys.moe_train.train.fault_plan import FaultPlan
from llmsys.moe_train.train.faults import SIGNALS, Fault
from llmsys.moe_train.train.messages import (
    Assign,
    End,
    Failed,
    FaultHit,
    Finished,
    Go,
    Hello,
    Interrupt,
    Pause,
    Paused,
    Ready,
    Report,
    Saved,
    Sealed,
    Stepped,
    StepReport,
    Stopped,
    Trouble,
)
from llmsys.moe_train.train.nursery import Nursery
from llmsys.moe_train.train.planner import Planner, Transfer, find_transfer
from llmsys.moe_train.train.rebalancing import Rebalancer
from llmsys.moe_train.train.records import step_fields
from llmsys.moe_train.train.roster import Death, Roster
from llmsys.moe_train.train.saving import SavingLog
from llmsys.moe_train.train.spares import Spares

__all__ = ["Event", "Supervisor"]

TICK_S = 0.05

Event = dict[str, object]


class Supervisor:
    """One run. `phase`: starting, running, pausing (asked to), stopping, transferring, waiting (for workers),
    finishing (the last checkpoint), ended.
    """

    def __init__(self, config: RunConfig, *, restore: str = "", step: int = 0) -> None:
        """`restore`: the checkpoint to begin with, after `step` steps."""
        self.config = config
        self.phase = "starting"
        self._restore, self._first = restore, step
        self._began_s = self._clock_s = time.monotonic()
        self._events: list[Event] = []
        self._planner = Planner(config)
        self._rebalancer = Rebalancer(config, self._planner)
        self._faults = FaultPlan(config.faults)
        self._saving = SavingLog(settled=step)
        self._spares = Spares()
        self._epoch = 0
        self._members: set[int] = set()
        self._starting: set[int] = set()
        self._joiners: set[int] = set()
        self._leaving: set[int] = set()
        self._departed: set[int] = set()
        self._answers: set[int] = set()
        self._plan: ModelPlan | None = None
        self._restoring: tuple[str, int] | None = None
        self._change: Change | None = None
        self._join_since_s = 0.0
        self._last: StepReport | None = None
        self._step = step
        self._roster: Roster

    def run(self, nursery: Nursery | None = None) -> Iterator[Event]:
        """Train to the last step; events as they happen. `nursery`: where workers come from, by default one of its own.

        Raises LlmsysError where nobody is left, an audit finds copies that differ, or a worker says what is wrong.
        """
        with tempfile.TemporaryDirectory(prefix="llmsys-moe-") as meeting, ExitStack() as stack:
            source = nursery or stack.enter_context(Nursery(threads=self.config.threads))
            self._planner.plan(range(self.config.workers))  # loads the solvers while the nursery loads torch
            self._roster = Roster(source, self.config, Path(meeting))
            try:
                self._starting = {self._roster.start() for _ in range(self.config.workers)}
                self._spares.starting = {self._roster.start() for _ in range(self.config.spares)}
                while self.phase != "ended":
                    for worker, said in self._roster.listen(TICK_S):
                        self._hear(worker, said)
                    self._tick()
                    yield from self._drained()
            finally:
                self._roster.close()
            yield from self._drained()

    def _drained(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def _emit(self, event: str, **fields: object) -> None:
        self._events.append({"t_s": round(time.monotonic() - self._began_s, 6), "event": event, **fields})

    def _hear(self, worker: int, said: Report | Death) -> None:
        match said:
            case Hello():
                self._arrived(worker)
            case Trouble(epoch=epoch) if epoch == self._epoch and self.phase in ("running", "pausing", "transferring"):
                self._begin()
            case Paused(epoch=epoch) | Finished(epoch=epoch) if epoch == self._epoch:
                self._answered(worker, finished=isinstance(said, Finished))
            case Stopped(epoch=epoch) if epoch == self._epoch and self._change is not None:
                if self._change.answered(worker, said):
                    self._assign()
            case Ready(epoch=epoch) if epoch == self._epoch and self._change is not None:
                self._change.ready[worker] = said
                if set(self._change.ready) == self._members:
                    self._go()
            case Stepped(report=report):
                self._stepped(report)
            case FaultHit(step=step, site=site, kind=kind):
                self._faults.hit(worker, step)
                self._emit("fault", kind=kind, worker=worker, step=step, site=site)
            case Saved() | Sealed():
                self._saved(worker, said)
            case Failed(reason=reason):
                raise LlmsysError(reason)
            case Death():
                self._died(worker, said)

    def _tick(self) -> None:
        """What time brings: faults by the clock, joiners whose wait is over, the end after the last save."""
        if self.phase != "starting":
            for fault in self._faults.due(time.monotonic() - self._clock_s, self._step):
                self._strike(fault)
        waited = time.monotonic() - self._join_since_s >= self.config.join_wait_s
        wanted = (self._joiners and not self._starting and waited) or self._leaving & self._members
        if self.phase == "running" and wanted:
            self._ask_to_pause()
        if self.phase == "finishing" and (not self.config.out or self._saving.settled >= self.config.steps):
            self._finish()

    def _arrived(self, worker: int) -> None:
        spare = self._spares.arrived(worker)
        self._starting.discard(worker)
        if not spare:
            self._joiners.add(worker)
            self._join_since_s = time.monotonic()
        if self.phase == "starting":
            if not self._starting | self._spares.starting:
                self._clock_s = time.monotonic()
                self._emit("start", pids=self._pids(self._joiners), **self._about())
                self._begin()
            return
        if spare:
            return
        self._emit("join", worker=worker, pid=self._roster.pid(worker))
        if self.phase == "waiting" and not self._starting:
            self._begin()

    def _died(self, worker: int, death: Death) -> None:
        expected = worker in self._departed
        self._starting.discard(worker)
        self._joiners.discard(worker)
        self._leaving.discard(worker)
        was_member = worker in self._members
        self._members.discard(worker)
        if expected or (self._spares.forget(worker) and self._roster.living):
            return
        if was_member:
            self._call_spare()
        detect_s = self._faults.since_hit(worker, default=death.since_s)
        self._emit("detect", worker=worker, how=death.how, detect_s=detect_s)
        if not self._roster.living:
            raise LlmsysError(f"all workers are dead after step {self._step}; {self._last_checkpoint()}")
        if self._change is not None and self.phase == "stopping":
            self._change.lose(worker)
            if not self._members:
                self.phase = "waiting"
            elif not self._change.awaited:
                self._assign()
        elif self.phase in ("running", "pausing", "transferring", "finishing") and was_member:
            self._begin(detect_s)
        elif self.phase == "starting" and not self._starting | self._spares.starting:
            self._begin()

    def _call_spare(self) -> None:
        """Let a spare join in the change that comes, and start another in its place."""
        spare = self._spares.take()
        if spare is not None:
            self._joiners.add(spare)
            self._spares.starting.add(self._roster.start())
            self._emit("join", worker=spare, pid=self._roster.pid(spare))

    def _strike(self, fault: Fault) -> None:
        """A fault that is the supervisor's to make: joiners, notices, and signals by the clock."""
        if fault.kind == "add":
            self._starting |= {self._roster.start() for _ in range(fault.count)}
            return
        for worker in fault.workers:
            alive = worker in self._roster.living
            self._emit("fault", kind=fault.kind, worker=worker, step=self._step, site=None, skipped=not alive)
            self._faults.hit(worker, fault.step, struck=alive)
            if alive and fault.kind == "notice":
                self._leaving.add(worker)
            elif alive:
                self._roster.strike(worker, SIGNALS[fault.kind])

    def _ask_to_pause(self) -> None:
        self.phase = "pausing"
        self._answers = set()
        for worker in self._members:
            self._roster.tell(worker, Pause())

    def _answered(self, worker: int, *, finished: bool) -> None:
        """A member stands between two steps, or after the last one; all do after the same."""
        if self.phase not in ("running", "pausing"):
            return
        self._answers.add(worker)
        if self._answers == self._members:
            if finished:
                self.phase = "finishing"
            else:
                self._begin()

    def _begin(self, detect_s: float = 0.0) -> None:
        """Start a change, or start it again after another death: everyone is to stop and say how far it is."""
        self._epoch += 1
        self._members |= self._joiners
        if not self._members:  # some are starting, or nobody would be here
            self.phase = "waiting"
            return
        if self._change is None:
            interrupted = self._step + 1 if self.phase == "running" else None
            self._change = Change(time.monotonic(), detect_s, interrupted_step=interrupted)
        else:
            self._change.tries += 1
        self._change.ask(self._members)
        self.phase = "stopping"
        for worker in self._members:
            self._roster.tell(worker, Interrupt(self._epoch))

    def _assign(self) -> None:
        """All have answered: plan for those who stay, and say who sends what."""
        change, started = self._change, time.monotonic()
        assert change is not None
        change.interrupt_s = started - change.began_s
        staying = sorted(self._members - self._leaving) or sorted(self._members)
        decided = max(answer.decided for answer in change.stopped.values())
        # a step may have been decided without anyone left to tell: those who know have just said so
        missed = change.report_of(decided) if self._restoring is None else None
        if missed is not None:
            self._stepped(missed)
        restore = None
        try:
            plan = self._planner.plan(staying)
            if decided < 0 or self._restoring is not None:
                raise Unrecoverable(())
            holdings = {worker: answer.holdings for worker, answer in change.stopped.items()}
            transfer = find_transfer(
                plan, holdings, staying, state_bytes=self._planner.state_bytes, mapping=self.config.mapping
            )
        except PlanError as error:
            self._wait_for_workers(error)
            return
        except Unrecoverable as lost:
            restore, decided = self._restoring = self._fall_back(lost, decided)
            transfer = Transfer(plan, ())
        change.planned(transfer, started)
        self._plan = transfer.plan
        self.phase = "transferring"
        order = self._order(transfer, decided, restore)
        for worker in sorted(self._members):
            self._roster.tell(worker, order)

    def _order(self, transfer: Transfer, decided: int, restore: str | None) -> Assign:
        assert self._change is not None
        plan, stopped = transfer.plan, self._change.stopped
        return Assign(
            epoch=self._epoch,
            members=sorted(self._members),
            holders=list(plan.node_ids),
            columns=[placement.columns.tolist() for placement in plan.placements],
            splits=[split.tolist() for split in plan.splits],
            moves=[(move.layer, move.expert, move.source, move.target) for move in transfer.moves],
            decided=decided,
            skipped=self._last is not None and self._last.skipped,
            source=min((one for one, answer in stopped.items() if answer.decided >= 0), default=min(stopped)),
            newcomers=sorted(one for one, answer in stopped.items() if answer.decided < 0),
            restore=restore,
        )

    def _go(self) -> None:
        """All are ready: let those go who leave, or train."""
        assert self._change is not None
        leaving = self._leaving & self._members
        if leaving and leaving != self._members:
            for worker in leaving:
                self._roster.tell(worker, End())
            self._departed |= leaving
            self._members -= leaving
            self._leaving -= leaving
            self._begin()
            return
        self.phase = "running"
        self._restoring = None
        self._answers = set()
        self._joiners -= self._members
        self._saving.begin(self._epoch, tuple(sorted(self._members)))
        for worker in sorted(self._members):
            self._roster.tell(worker, Go(self._epoch))
        self._emit("reconfigure", **self._change.record(self._epoch))
        self._rebalancer.changed(self._plan, self._change)
        self._change = None

    def _wait_for_workers(self, error: PlanError) -> None:
        if not self._starting and not self._faults.brings_workers:
            raise LlmsysError(f"{error}; {self._last_checkpoint()}") from error
        self.phase = "waiting"
        self._joiners = self._joiners & self._members
        self._emit("wait", reason=str(error))

    def _fall_back(self, lost: Unrecoverable, decided: int) -> tuple[str, int]:
        """The checkpoint to go back to, "" for the beginning, and its step."""
        if self._restoring is not None:  # some may have gone back, others not: all do again
            return self._restoring
        if decided < 0 and self._last is None:
            return self._restore, self._first
        found, faults = newest_checkpoint(Path(self.config.out)) if self.config.out else (None, [])
        path, step = ("", 0) if found is None else (str(found.path), found.note.step)
        self._emit(
            "fallback", lost_experts=list(lost.lost), from_step=self._step, to_step=step, checkpoint=path, faults=faults
        )
        self._step = step
        return path, step

    def _stepped(self, report: StepReport) -> None:
        if report.step <= self._step:
            return
        self._step, self._last = report.step, report
        self._emit("step", **step_fields(report))
        found = self._rebalancer.observe(report)
        if found is not None and self.phase == "running":
            self._emit("rebalance", step=report.step, **found)
            self._ask_to_pause()

    def _saved(self, worker: int, part: Saved | Sealed) -> None:
        if isinstance(part, Sealed) or part.fault is not None:
            self._saving.settle(part.step)
            seconds = part.seconds if isinstance(part, Sealed) else None
            self._emit("checkpoint", step=part.step, seconds=seconds, fault=part.fault)
            return
        found = self._saving.add(worker, part, self._roster.living)
        if found is not None:
            self._roster.tell(*found)

    def _finish(self) -> None:
        for worker in self._members:
            self._roster.tell(worker, End())
        if self.config.loads_out is not None:
            write_loads(Path(self.config.loads_out), self._planner.loads, self._planner.state_bytes)
        wall_s = time.monotonic() - self._began_s
        samples = (self._step - self._first) * self.config.batch
        self._emit(
            "end",
            steps=self._step,
            samples=samples,
            goodput=samples / wall_s,
            final_loss=None if self._last is None else self._last.loss,
            survivor_pids=self._pids(self._members),
            faults_missed=self._faults.missed(),
        )
        self.phase = "ended"

    def _about(self) -> dict[str, object]:
        config = self.config
        spares = {"spares": self._pids(self._spares.ready)} if config.spares else {}
        return {"seed": config.seed, "batch": config.batch, "params": config.model.parameters, **spares}

    def _pids(self, workers: set[int]) -> dict[str, int]:
        return {str(worker): self._roster.pid(worker) for worker in sorted(workers)}

    def _last_checkpoint(self) -> str:
        found = newest_checkpoint(Path(self.config.out))[0] if self.config.out else None
        return "there is no checkpoint" if found is None else f"the last checkpoint is {found.path}"
