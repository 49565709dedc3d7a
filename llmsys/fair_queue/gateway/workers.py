"""Several gateway processes on one address: started together, ended together, one that dies is started anew.

They share counters, or they would not be fair: through Redis, or through one process more that owns them. Knows no
request.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import FrameType

from llmsys.errors import LlmsysError, UsageFault
from llmsys.fair_queue.gateway.gateway import Settings
from llmsys.lifeline import signal_at_parents_end

__all__ = ["check_workers", "file_of_worker", "of_worker", "run_workers"]

_PASSED_ON = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
YOUNG_S = 1.0
"""A worker that dies younger than this would do so again: all end."""


def check_workers(count: int, port: int) -> None:
    """Raise UsageFault for several workers that could not share an address."""
    if count > 1 and port == 0:
        raise UsageFault(f"--workers {count} cannot share a port that each chooses; expected --listen with a port")


def of_worker(settings: Settings, number: int) -> Settings:
    """The settings of one worker: the first has the operators' port that was asked for, the others those behind it."""
    admin = settings.admin
    return replace(settings, admin=replace(admin, port=admin.port + number if admin.port else 0))


def file_of_worker(path: Path | None, number: int) -> Path | None:
    """The file of one worker's events: as asked for the first, with its number before the suffix for the others."""
    return path if path is None or number == 0 else path.with_name(f"{path.stem}.{number}{path.suffix}")


def run_workers(
    count: int, work: Callable[[int], None], say: Callable[[str], None], *, owner: Callable[[], None] | None = None
) -> None:
    """Run `work(number)` in `count` processes until a signal, which each gets. With one, run it here.

    `owner` is one process more, for what the workers share: started first, ended last, by SIGTERM alone.
    Raises LlmsysError when one ends by itself right after its start.
    """
    if count == 1:
        work(0)
        return
    _Family(say).run([partial(work, number) for number in range(count)], owner)


@dataclass(frozen=True, slots=True)
class _Member:
    """What a process of the family is called and does."""

    name: str
    work: Callable[[], None]
    passed_on: frozenset[signal.Signals]


class _Family:
    """The members by process id, with their start."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._running: dict[int, tuple[_Member, float]] = {}
        self._stopping = False

    def run(self, workers: Sequence[Callable[[], None]], owner: Callable[[], None] | None) -> None:
        for name in _PASSED_ON:
            signal.signal(name, self._forward)
        if owner is not None:
            self._start(_Member("the owner of the counters", owner, frozenset()))
        for number, work in enumerate(workers):
            self._start(_Member(f"worker {number}", work, _PASSED_ON))
        fault: LlmsysError | None = None
        while self._running:
            fault = self._wait() or fault
            if not any(member.passed_on for member, _ in self._running.values()):
                self._end_all()
        if fault is not None:
            raise fault

    def _wait(self) -> LlmsysError | None:
        """Wait for one to end, and start it anew unless all are to end or it would only end again."""
        child, status = os.wait()
        member, since_s = self._running.pop(child)
        if self._stopping:
            return None
        code = os.waitstatus_to_exitcode(status)
        if time.monotonic() - since_s < YOUNG_S:
            self._stopping = True
            self._end_all()
            return LlmsysError(f"{member.name} ended with status {code} right after its start")
        self._say(f"warning: {member.name} ended with status {code}; it is started anew")
        self._start(member)
        return None

    def _start(self, member: _Member) -> None:
        if self._stopping:
            return
        parent = os.getpid()
        signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON)  # no signal between a child's birth and its entry
        child = os.fork()
        if child:
            self._running[child] = member, time.monotonic()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _PASSED_ON)
            return
        status = 1
        try:
            for name in _PASSED_ON:
                signal.signal(name, signal.SIG_DFL if name in {*member.passed_on, signal.SIGTERM} else signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _PASSED_ON)
            signal_at_parents_end(signal.SIGTERM, parent)
            member.work()
            status = 0
        except LlmsysError as error:
            self._say(f"error: {member.name}: {error}")
            status = error.exit_code
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def _forward(self, number: int, frame: FrameType | None) -> None:
        """Give a signal to everyone it is passed on to; a stop ends the family."""
        self._stopping = self._stopping or number != signal.SIGHUP
        for child, (member, _) in self._running.items():
            if number in member.passed_on:
                os.kill(child, number)

    def _end_all(self) -> None:
        for child in self._running:
            os.kill(child, signal.SIGTERM)
