"""Several gateway processes on one address: started together, ended together, one that dies is started anew.

They share counters through Redis, or they would not be fair. Knows no request.
"""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType

from llmsys.errors import LlmsysError, UsageFault
from llmsys.fair_queue.gateway.gateway import Settings

__all__ = ["check_workers", "file_of_worker", "of_worker", "run_workers"]

_PR_SET_PDEATHSIG = 1
_PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
YOUNG_S = 1.0
"""A worker that dies younger than this would do so again: all end."""


def check_workers(count: int, state: str | None, port: int) -> None:
    """Raise UsageFault for several workers that could not share counters or an address."""
    if count == 1:
        return
    if state is None or not state.startswith(("redis://", "rediss://", "unix://")):
        raise UsageFault(
            f"--workers {count} with separate counters would not be fair; expected --state redis://HOST with it"
        )
    if port == 0:
        raise UsageFault(f"--workers {count} cannot share a port that each chooses; expected --listen with a port")


def of_worker(settings: Settings, number: int) -> Settings:
    """The settings of one worker: the first has the operators' port that was asked for, the others those behind it."""
    admin = settings.admin
    return replace(settings, admin=replace(admin, port=admin.port + number if admin.port else 0))


def file_of_worker(path: Path | None, number: int) -> Path | None:
    """The file of one worker's events: as asked for the first, with its number before the suffix for the others."""
    return path if path is None or number == 0 else path.with_name(f"{path.stem}.{number}{path.suffix}")


def run_workers(count: int, work: Callable[[int], None], say: Callable[[str], None]) -> None:
    """Run `work(number)` in `count` processes until a signal, which each gets. With one, run it here.

    Raises LlmsysError when a worker ends by itself right after its start.
    """
    if count == 1:
        work(0)
        return
    _Family(count, work, say).run()


class _Family:
    """The workers by process id: number and start."""

    def __init__(self, count: int, work: Callable[[int], None], say: Callable[[str], None]) -> None:
        self._count, self._work, self._say = count, work, say
        self._children: dict[int, tuple[int, float]] = {}
        self._stopping = False

    def run(self) -> None:
        for name in _PASSED_ON:
            signal.signal(name, self._forward)
        for number in range(self._count):
            self._start(number)
        fault: LlmsysError | None = None
        while self._children:
            child, status = os.wait()
            number, since_s = self._children.pop(child)
            if self._stopping:
                continue
            code = os.waitstatus_to_exitcode(status)
            if time.monotonic() - since_s < YOUNG_S:
                fault = LlmsysError(f"worker {number} ended with status {code} right after its start")
                self._forward(signal.SIGTERM, None)
            else:
                self._say(f"warning: worker {number} ended with status {code}; it is started anew")
                self._start(number)
        if fault is not None:
            raise fault

    def _start(self, number: int) -> None:
        if self._stopping:
            return
        parent = os.getpid()
        signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON)  # no signal between a child's birth and its entry
        child = os.fork()
        if child:
            self._children[child] = number, time.monotonic()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _PASSED_ON)
            return
        status = 1
        try:
            for name in _PASSED_ON:
                signal.signal(name, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _PASSED_ON)
            _die_with_parent(parent)
            self._work(number)
            status = 0
        except LlmsysError as error:
            self._say(f"error: worker {number}: {error}")
            status = error.exit_code
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def _forward(self, number: int, frame: FrameType | None) -> None:
        """Give a signal to every worker; a stop ends the family."""
        self._stopping = self._stopping or number != signal.SIGHUP
        for child in self._children:
            os.kill(child, number)


def _die_with_parent(parent: int) -> None:
    """Have the system stop this process when its parent has gone, however it went (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
        if os.getppid() != parent:
            os._exit(1)
