"""The workers' processes as the supervisor sees them: messages, deaths and silences. Knows no epoch and no plan."""

import selectors
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import msgspec

from llmsys.moe_train.train.config import RunConfig
from llmsys.moe_train.train.messages import Order, Report, decode_report, encode_message
from llmsys.moe_train.train.nursery import Child, Nursery

__all__ = ["Death", "Roster"]

ENTRY = "llmsys.moe_train.train.worker:work"
PATIENCE_S = 60.0  # until a worker that has said nothing yet counts as silent


@dataclass(frozen=True, slots=True)
class Death:
    """A worker's process is gone: `how` is "exit", or "silence" where it was fenced; `since_s` it was last heard."""

    how: str
    since_s: float


@dataclass(slots=True)
class _Entry:
    child: Child
    heard_s: float
    spoke: bool = False
    fenced: bool = False


class Roster:
    """Starts workers under ascending ids that are never used again, and tells what comes from them."""

    def __init__(self, nursery: Nursery, config: RunConfig, meeting: Path) -> None:
        self._nursery, self._config, self._meeting = nursery, config, meeting
        self._entries: dict[int, _Entry] = {}
        self._selector = selectors.DefaultSelector()
        self._next = 0

    @property
    def living(self) -> set[int]:
        """Workers whose death has not been told yet."""
        return set(self._entries)

    def start(self) -> int:
        """A new worker's id; it says Hello when it is ready."""
        worker = self._next
        self._next += 1
        arguments = {"worker": worker, "meeting": str(self._meeting), "config": msgspec.to_builtins(self._config)}
        child = self._nursery.start(ENTRY, arguments)
        self._entries[worker] = _Entry(child, time.monotonic())
        self._selector.register(child.pipe, selectors.EVENT_READ, worker)
        self._selector.register(child.handle, selectors.EVENT_READ, worker)
        return worker

    def pid(self, worker: int) -> int:
        """The process id of a living worker."""
        return self._entries[worker].child.pid

    def tell(self, worker: int, order: Order) -> None:
        """Send an order; to a dead worker it is lost, and its death will be told."""
        entry = self._entries.get(worker)
        if entry is not None:
            try:
                entry.child.pipe.send_bytes(encode_message(order))
            except OSError:
                return

    def strike(self, worker: int, number: signal.Signals) -> bool:
        """Send a signal; False where the worker is gone."""
        entry = self._entries.get(worker)
        return entry is not None and entry.child.signal(number)

    def listen(self, limit_s: float) -> Iterator[tuple[int, Report | Death]]:
        """What has come within the limit. A silent worker is killed; a death is told after all that was said before."""
        gone = []
        for key, _ in self._selector.select(limit_s):
            worker: int = key.data
            if worker not in self._entries:
                continue
            if isinstance(key.fileobj, Connection):
                yield from ((worker, report) for report in self._heard(worker))
            else:
                gone.append(worker)
        for worker in gone:
            yield from ((worker, report) for report in self._heard(worker))
            yield worker, self._buried(worker)
        self._fence()

    def close(self) -> None:
        """Kill all."""
        for worker in sorted(self._entries):
            self._buried(worker)
        self._selector.close()

    def _heard(self, worker: int) -> Iterator[Report]:
        entry = self._entries[worker]
        pipe = entry.child.pipe
        try:
            while not pipe.closed and pipe.poll():
                report = decode_report(pipe.recv_bytes())
                entry.heard_s, entry.spoke = time.monotonic(), True
                yield report
        except (EOFError, OSError):
            # the pipe of a dead worker stays readable: its process handle tells the rest
            self._selector.unregister(pipe)
            pipe.close()

    def _fence(self) -> None:
        now = time.monotonic()
        for entry in self._entries.values():
            limit = self._config.heartbeat_s if entry.spoke else PATIENCE_S
            if not entry.fenced and now - entry.heard_s > limit and not _pending(entry):
                entry.fenced = True
                entry.child.signal(signal.SIGKILL)

    def _buried(self, worker: int) -> Death:
        entry = self._entries.pop(worker)
        if not entry.child.pipe.closed:
            self._selector.unregister(entry.child.pipe)
        self._selector.unregister(entry.child.handle)
        entry.child.close()
        return Death("silence" if entry.fenced else "exit", time.monotonic() - entry.heard_s)


def _pending(entry: _Entry) -> bool:
    """Whether the worker has said something that was not read yet, as after the supervisor itself slept."""
    return not entry.child.pipe.closed and entry.child.pipe.poll()
