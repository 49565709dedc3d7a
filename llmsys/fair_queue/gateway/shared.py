"""Counters that several gateways share: what was served pushed, the others' read, every sync.

A counter is a sum and a lift: the cost of all that was ever served, by any replica, and the most that any replica has
raised the tenant by. Both come out the same in whatever order replicas tell them, so no charge is ever hidden by a
lift elsewhere: a tenant can only count as served what was served. A replica's counters are its own until the next
sync, so the bound grows by replicas x service rate x sync. While the counters are away the replica goes on with its
own; what it served meanwhile goes with the first sync that succeeds. Syncs are numbered, and one whose answer was lost
is told again as it was: it counts once. Who holds the counters is in `redis_counters.py` and `owner.py`.
"""

import uuid
from dataclasses import dataclass
from itertools import count
from typing import Protocol

from llmsys.fair_queue.gateway.ledger import Batch, Remote
from llmsys.fair_queue.gateway.store import Saved

__all__ = ["STALE_S", "Answer", "Away", "Counters", "Held", "SharedStore", "Told"]

STALE_S = 2.0
"""A replica that has not synced for this long has gone, and with it what waited there."""


class Away(Exception):
    """The counters could not be reached; the message says where and why."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a replica says in a sync: its number, the least counter that waits there, its lift floor, and a row for
    each tenant: name, lift, cost units per weight served since the last sync (less than 0 for a refund)."""

    replica: str
    number: int
    least: float | None
    floor: float | None
    rows: list[tuple[str, float, float]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a replica is told: the least that waits elsewhere, the floor, (counter, lift) of its rows in order."""

    least: float | None
    floor: float | None
    counters: list[tuple[float, float]]


Held = dict[str, tuple[float, float]]
"""Counter and lift of each tenant, in cost units per weight; the lift is a part of the counter."""


class Counters(Protocol):
    """Holds the counters of all replicas. Every call may raise Away."""

    async def read(self) -> tuple[Held, float | None]: ...

    async def sync(self, told: Told) -> Answer: ...

    async def close(self) -> None: ...


@dataclass(slots=True)
class _Tenant:
    """A tenant as the holder is known to have it, and what was told and is to be told beyond that."""

    counter: float = 0.0
    lift: float = 0.0
    raised_told: float = 0.0
    served_told: float = 0.0
    raised: float = 0.0
    served: float = 0.0

    def stands_at(self, counter: float, raised: float) -> None:
        """Its counter here, after it was raised by so much since the last time."""
        self.raised += raised
        self.served = counter - self.counter - self.raised_told - self.served_told - self.raised

    def tell(self) -> tuple[float, float]:
        """Its lift and what was served, to be told from now on until that is answered."""
        self.raised_told, self.served_told = self.raised, self.served
        self.raised = self.served = 0.0
        return self.lift + self.raised_told, self.served_told

    def answered(self, counter: float, lift: float) -> float:
        """The holder has it so now; returns what was added elsewhere."""
        elsewhere = counter - self.counter - self.raised_told - self.served_told
        self.counter, self.lift = counter, lift
        self.raised_told = self.served_told = 0.0
        return elsewhere


class SharedStore:
    """A store that keeps nothing itself: counters are with `counters`, limits are those of the tenants file."""

    def __init__(self, counters: Counters) -> None:
        self.fault: str | None = None
        self.shared = True
        self._counters = counters
        self._replica = uuid.uuid4().hex
        self._numbers = count(1)
        self._tenants: dict[str, _Tenant] = {}
        self._unsaid: set[str] = set()
        self._unanswered: Told | None = None

    async def load(self) -> Saved:
        """The shared counters as they are. Counters that are away are a fault, not an error: the gateway starts."""
        try:
            held, floor = await self._counters.read()
        except Away as error:
            self.fault = str(error)
            return Saved()
        self._tenants = {name: _Tenant(counter, lift) for name, (counter, lift) in held.items()}
        return Saved(counters={name: counter for name, (counter, _) in held.items()}, floor=floor)

    async def push(self, batch: Batch) -> Remote | None:
        """Push what was served here, and return what was served elsewhere; None while the counters are away."""
        if batch.afresh:
            for tenant in self._tenants.values():
                tenant.counter = -tenant.raised_told - tenant.served_told - tenant.raised - tenant.served
        for name, counter in batch.counters.items():
            self._tenants.setdefault(name, _Tenant()).stands_at(counter, batch.raised.get(name, 0.0))
        self._unsaid.update(batch.counters, batch.active)
        elsewhere: dict[str, float] = {}
        answer = None
        try:
            if self._unanswered is not None:
                answer = await self._sync(self._unanswered, elsewhere)
            self._unanswered = self._told(batch)
            answer = await self._sync(self._unanswered, elsewhere)
            self.fault = None
        except Away as error:
            self.fault = str(error)
        return None if answer is None else Remote(elsewhere, _least(answer))

    async def _sync(self, told: Told, elsewhere: dict[str, float]) -> Answer:
        """Say it, and add to `elsewhere` what others did to its tenants."""
        answer = await self._counters.sync(told)
        self._unanswered = None
        for (name, _, _), held in zip(told.rows, answer.counters, strict=True):
            if change := self._tenants[name].answered(*held):
                elsewhere[name] = elsewhere.get(name, 0.0) + change
        return answer

    def _told(self, batch: Batch) -> Told:
        names, self._unsaid = self._unsaid, set()
        rows = [(name, *self._tenants.setdefault(name, _Tenant()).tell()) for name in names]
        return Told(self._replica, next(self._numbers), batch.least, batch.floor, rows)

    async def keep_limits(self, tenant: str, json: str) -> None:
        """Limits are each replica's own: its tenants file says them."""

    async def close(self) -> None:
        """Leave the counters."""
        await self._counters.close()


def _least(answer: Answer) -> float | None:
    """What a tenant who comes is lifted to: the least that waits elsewhere or the floor, whichever is less."""
    if answer.least is None or answer.floor is None:
        return answer.floor if answer.least is None else answer.least
    return min(answer.least, answer.floor)
