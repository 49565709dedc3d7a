"""What has changed since the last sync: which counters, which running requests, who was lifted.

The hot path adds names to sets; a sync takes them as one batch. Also the live bound: how far a counter grew since its
tenant was last admitted, which is U_log as far as it has come true. Knows no store.
"""

from dataclasses import dataclass, field

from llmsys.fair_queue.gateway.accounts import Account, Accounts
from llmsys.fair_queue.gateway.queued import Queued
from llmsys.fair_queue.gateway.scheduler import Scheduler

__all__ = ["Batch", "InFlight", "Ledger", "Remote"]


@dataclass(frozen=True, slots=True)
class InFlight:
    """A running request and what it is charged for."""

    id: str
    tenant: str
    prompt_tokens: int
    output_tokens: int


@dataclass(slots=True)
class Batch:
    """What a store keeps. Counters are in cost units per weight; `floor` is what a returning tenant is lifted to,
    `least` the least counter that waits; `raised` is by how much tenants were lifted, which nobody served.

    `totals` are (requests, prompt tokens, output tokens) of each tenant; `active` tenants have something waiting or
    running. `afresh` says that earlier counters are void.
    """

    counters: dict[str, float] = field(default_factory=dict)
    raised: dict[str, float] = field(default_factory=dict)
    floor: float | None = None
    least: float | None = None
    totals: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    running: list[InFlight] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    active: list[str] = field(default_factory=list)
    afresh: bool = False

    @property
    def empty(self) -> bool:
        """Whether nothing has changed."""
        return not (self.totals or self.running or self.ended or self.afresh)


@dataclass(frozen=True, slots=True)
class Remote:
    """What other replicas did: cost units per weight to add to each tenant (less than 0 for refunds), and the least
    counter that waits there."""

    served: dict[str, float]
    least: float | None


class Ledger:
    """Collects changes between syncs, and applies what other replicas did."""

    def __init__(self, scheduler: Scheduler, accounts: Accounts) -> None:
        self.bound = 0.0
        self._scheduler = scheduler
        self._accounts = accounts
        self._changed: set[str] = set()
        self._raised: dict[str, float] = {}
        self._taken: dict[str, float] = {}
        self._running: dict[str, Queued] = {}
        self._ended: list[str] = []
        self._known: set[str] = set()
        self._base: dict[str, float] = {}
        self._before: float | None = None
        self._remote_least: float | None = None
        self._afresh = False

    def arriving(self, account: Account) -> None:
        """A request of the tenant is about to be queued: the lift knows what waits at other replicas."""
        counted = self._scheduler.counted
        if counted is None:
            return
        self._before = counted.counter(account.name)
        if self._remote_least is not None and not account.queued:
            counted.raise_to(account.name, self._remote_least)

    def arrived(self, account: Account) -> None:
        """It is queued, so the tenant has been lifted if it had to be."""
        self._changed.add(account.name)
        counted = self._scheduler.counted
        after = counted.counter(account.name) if counted is not None else None
        if after is None:
            return
        if self._before is not None:
            self._raised[account.name] = self._raised.get(account.name, 0.0) + after - self._before
        else:  # it was forgotten: what it was served since the last batch was below the floor, and is part of the lift
            self._raised[account.name] = after - self._taken.get(account.name, 0.0)

    def admitting(self, tenant: str) -> None:
        """The tenant's next request is about to be charged."""
        counted = self._scheduler.counted
        if counted is not None:
            self._base[tenant] = counted.counter(tenant) or 0.0

    def served(self, queued: Queued) -> None:
        """A request was charged."""
        self._changed.add(queued.request.tenant)
        self._running[queued.request.id] = queued

    def ended(self, queued: Queued) -> None:
        """A request has ended."""
        self._changed.add(queued.request.tenant)
        self._running.pop(queued.request.id, None)
        if queued.request.id in self._known:  # one that came and went between two syncs is never written
            self._known.remove(queued.request.id)
            self._ended.append(queued.request.id)

    def resume(self, counters: dict[str, float], floor: float | None) -> None:
        """Start from the counters of an earlier life: nobody starts below the floor."""
        self._remote_least = floor
        counted = self._scheduler.counted
        if counted is not None:
            for tenant, counter in counters.items():
                if floor is None or counter > floor:
                    counted.raise_to(tenant, counter)
                self._taken[tenant] = counter

    def reset(self) -> None:
        """The policy was replaced: counters start again."""
        self._afresh = True
        self._base.clear()
        self._raised.clear()
        self._taken.clear()

    def apply(self, remote: Remote) -> None:
        """Take over what other replicas did."""
        if remote.least is not None:
            self._remote_least = remote.least
        counted = self._scheduler.counted
        if counted is not None:
            for tenant, cost in remote.served.items():
                if cost > 0 or counted.counter(tenant) is not None:
                    counted.add(tenant, cost)
                    self._taken[tenant] = self._taken.get(tenant, 0.0) + cost

    def counters(self) -> dict[str, float]:
        """The counter of every tenant that has an account and is not forgotten."""
        counted = self._scheduler.counted
        if counted is None:
            return {}
        found = ((one.name, counted.counter(one.name)) for one in self._accounts)
        return {name: counter for name, counter in found if counter is not None}

    def gap(self) -> float:
        """Greatest less least counter among tenants that wait."""
        counters = self.counters()
        waiting = [counters[one.name] for one in self._accounts if one.queued and one.name in counters]
        return max(waiting) - min(waiting) if waiting else 0.0

    def take(self) -> Batch:
        """Everything since the last call."""
        counted = self._scheduler.counted
        batch = Batch(raised=self._raised, ended=self._ended, afresh=self._afresh)
        for name in self._changed:
            account = self._accounts.get(name)
            if account is not None:
                batch.totals[name] = (account.requests, account.prompt_tokens, account.output_tokens)
            counter = counted.counter(name) if counted is not None else None
            if counter is not None:
                batch.counters[name] = self._taken[name] = counter
                self.bound = max(self.bound, counter - self._base.get(name, counter))
        if counted is not None:
            batch.floor, batch.least = counted.lift_floor(), counted.least_waiting()
        batch.active = [one.name for one in self._accounts if not one.idle]
        batch.running = [
            InFlight(one.request.id, one.request.tenant, one.request.prompt_tokens, one.tokens)
            for one in self._running.values()
        ]
        self._known.update(self._running)
        self._changed, self._raised, self._running, self._ended = set(), {}, {}, []
        self._afresh = False
        return batch
