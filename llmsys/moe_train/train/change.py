"""One change of members, from the interruption to the first step after it, and its record. Knows no process."""

import time
from dataclasses import dataclass, field

from llmsys.moe_train.train.messages import Ready, StepReport, Stopped
from llmsys.moe_train.train.planner import Transfer

__all__ = ["Change"]


@dataclass(slots=True)
class Change:
    """Who must answer, what they answered, and when; times are of the monotonic clock.

    `detect_s`: from the fault to its detection, 0 for a change that was asked for. `tries`: epochs that
    broke on the way.
    """

    began_s: float
    detect_s: float = 0.0
    awaited: set[int] = field(default_factory=set)
    stopped: dict[int, Stopped] = field(default_factory=dict)
    ready: dict[int, Ready] = field(default_factory=dict)
    transfer: Transfer | None = None
    interrupt_s: float = 0.0
    plan_s: float = 0.0
    moves: int = 0
    bytes: int = 0
    tries: int = 0
    interrupted_step: int | None = None

    def ask(self, members: set[int]) -> None:
        """Everyone is asked to stop, in a new epoch."""
        self.awaited = set(members)
        self.stopped, self.ready, self.transfer = {}, {}, None

    def answered(self, worker: int, answer: Stopped) -> bool:
        """Take an answer; whether it was the last one."""
        self.stopped[worker] = answer
        self.awaited.discard(worker)
        return not self.awaited

    def lose(self, worker: int) -> None:
        """A worker that may have answered is dead."""
        self.awaited.discard(worker)
        self.stopped.pop(worker, None)

    def report_of(self, decided: int) -> StepReport | None:
        """The report of a step, where a worker has told it."""
        told = (answer.report for answer in self.stopped.values() if answer.decided == decided)
        return next((report for report in told if report is not None and report.step == decided), None)

    def planned(self, transfer: Transfer, started_s: float) -> None:
        """The plan stands."""
        self.transfer = transfer
        self.plan_s = time.monotonic() - started_s
        self.moves += len(transfer.moves)
        self.bytes += transfer.bytes

    def record(self, epoch: int) -> dict[str, object]:
        """The fields of a `reconfigure` event; seconds of the slowest worker."""
        return {
            "epoch": epoch,
            "workers": len(self.ready),
            "detect_s": self.detect_s,
            "interrupt_s": self.interrupt_s,
            "plan_s": self.plan_s,
            "group_s": max(one.group_s for one in self.ready.values()),
            "transfer_s": max(one.transfer_s for one in self.ready.values()),
            "total_s": self.detect_s + time.monotonic() - self.began_s,
            "moves": self.moves,
            "bytes": self.bytes,
            "tries": self.tries,
            "retried_step": self.interrupted_step,
        }
