"""Counters that several gateways share: increments pushed, the others' read, every sync.

A sync brings lifted tenants up, adds what this replica served since the last one, and returns what the tenants'
counters are now and the least that waits at any other live replica. A replica's counters are its own until the next
sync, so the bound grows by replicas x service rate x sync. While the counters are away the replica goes on with its
own; what it served meanwhile goes with the first sync that succeeds. A sync whose answer is lost on the way back is
pushed again and counts twice. Who holds the counters is in `redis_counters.py` and `owner.py`.
"""

import uuid
from dataclasses import dataclass
from typing import Protocol

from llmsys.fair_queue.gateway.ledger import Batch, Remote
from llmsys.fair_queue.gateway.store import Saved

__all__ = ["STALE_S", "Answer", "Away", "Counters", "SharedStore", "Told"]

STALE_S = 2.0
"""A replica that has not synced for this long has gone, and with it what waited there."""


class Away(Exception):
    """The counters could not be reached; the message says where and why."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a replica says in a sync: the least counter that waits there, its lift floor, and a row for each tenant:
    name, counter it was lifted to or None, cost units per weight served since the last sync."""

    replica: str
    least: float | None
    floor: float | None
    rows: list[tuple[str, float | None, float]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a replica is told: the least that waits elsewhere, the floor, the counters of its rows in order."""

    least: float | None
    floor: float | None
    counters: list[float]


class Counters(Protocol):
    """Holds the counters of all replicas. Every call may raise Away."""

    async def read(self) -> tuple[dict[str, float], float | None]: ...

    async def sync(self, told: Told) -> Answer: ...

    async def close(self) -> None: ...


class SharedStore:
    """A store that keeps nothing itself: counters are with `counters`, limits are those of the tenants file."""

    def __init__(self, counters: Counters) -> None:
        self.fault: str | None = None
        self.shared = True
        self._counters = counters
        self._replica = uuid.uuid4().hex
        self._pushed: dict[str, float] = {}
        self._owed: dict[str, float] = {}
        self._lifted: dict[str, float] = {}

    async def load(self) -> Saved:
        """The shared counters as they are. Counters that are away are a fault, not an error: the gateway starts."""
        try:
            counters, floor = await self._counters.read()
        except Away as error:
            self.fault = str(error)
            return Saved()
        self._pushed = dict(counters)
        return Saved(counters=counters, floor=floor)

    async def push(self, batch: Batch) -> Remote | None:
        """Push what was served here, and return what was served elsewhere; None while the counters are away."""
        for tenant, counter in batch.counters.items():
            start = max(self._pushed.get(tenant, 0.0), batch.lifted.get(tenant, 0.0))
            self._owed[tenant] = self._owed.get(tenant, 0.0) + counter - start
            self._pushed[tenant] = counter
        self._lifted |= batch.lifted
        tenants = list({*self._owed, *self._lifted, *batch.active})
        rows = [(tenant, self._lifted.get(tenant), self._owed.get(tenant, 0.0)) for tenant in tenants]
        try:
            answer = await self._counters.sync(Told(self._replica, batch.least, batch.floor, rows))
        except Away as error:
            self.fault = str(error)
            return None
        self.fault = None
        self._owed.clear()
        self._lifted.clear()
        return self._others(tenants, answer)

    def _others(self, tenants: list[str], answer: Answer) -> Remote:
        """What the counters now hold beyond what this replica has pushed."""
        served: dict[str, float] = {}
        for tenant, now in zip(tenants, answer.counters, strict=True):
            ours = self._pushed.get(tenant, 0.0)
            if now > ours:
                served[tenant] = now - ours
            self._pushed[tenant] = now
        if answer.least is None:
            return Remote(served, answer.floor)
        return Remote(served, answer.least if answer.floor is None else min(answer.least, answer.floor))

    async def keep_limits(self, tenant: str, json: str) -> None:
        """Limits are each replica's own: its tenants file says them."""

    async def close(self) -> None:
        """Leave the counters."""
        await self._counters.close()
