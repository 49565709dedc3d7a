"""Virtual token counter: always admit from the waiting tenant that was served least (VTC, Algorithm 1).

A tenant's counter is the cost of what it was served, divided by its weight. A tenant that comes back to the queue is
lifted to the least counter there, so that idle time cannot be saved up. Without the lift the policy is least counter
first, the paper's ablation. Predicted output is charged at admission and settled when the request ends.
Knows no memory: the first request that does not fit ends an admission, because skipping it would break the bound.
"""

import heapq
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from llmsys.fair_queue.policy.backlog import Backlog, Running
from llmsys.fair_queue.policy.billing import Billing, TokenBilling
from llmsys.fair_queue.policy.prediction import NoPrediction, Predictor
from llmsys.fair_queue.policy.protocol import QUEUED, Decision, Request
from llmsys.fair_queue.policy.spec import check_weights
from llmsys.fair_queue.policy.tenant_heap import Tenant, TenantHeap, WaitingQueue
from llmsys.fair_queue.policy.urgency import Urgency, UrgencyQueue

__all__ = ["LeastCounterFirst", "VirtualTokenCounter"]

REBASE_AT = 2.0**50


class LeastCounterFirst:
    """Admit from the tenant with the least counter; a returning tenant keeps the counter it left with.

    Counters are float64: exact below 2^53 for whole-numbered costs, so past `rebase_at` all are lowered alike.
    """

    def __init__(
        self,
        *,
        billing: Billing | None = None,
        weights: Mapping[str, float] | None = None,
        predictor: Predictor | None = None,
        urgency: Urgency | None = None,
        rebase_at: float = REBASE_AT,
    ) -> None:
        self._billing = billing or TokenBilling()
        self._weights = check_weights(weights)
        self._predictor = predictor or NoPrediction()
        self._urgency = urgency
        self._rebase_at = rebase_at
        self._origin = 0.0
        self._backlog = Backlog()
        self._tenants: dict[str, Tenant] = {}
        self._first_seen: dict[str, int] = {}
        self._heap = TenantHeap()

    @property
    def counters(self) -> dict[str, float]:
        """Cost units per weight of every tenant that is not forgotten, on a scale that a rebase shifts."""
        return {name: tenant.counter for name, tenant in self._tenants.items()}

    def arrive(self, request: Request, now_s: float) -> Decision:
        """Queue the request behind its tenant's others."""
        self._backlog.queue(request, now_s)
        tenant = self._tenant(request.tenant)
        if not tenant.waiting:
            self._joins_queue(tenant)
        tenant.waiting.append(request)
        self._queued(tenant)
        return QUEUED

    def admit(self, now_s: float, fits: Callable[[Request], bool]) -> list[Request]:
        """Admit oldest requests of the least-served tenants until one does not fit."""
        admitted: list[Request] = []
        while (tenant := self._heap.least()) is not None and fits(tenant.waiting[0]):
            request = tenant.waiting.popleft()
            record, first = self._backlog.start(request, now_s)
            tenant.running += 1
            if first:
                self._settle(tenant, record, self._billing.due(record, self._predictor.guess(request)))
            self._left_queue(tenant)
            admitted.append(request)
        return admitted

    def tokens(self, request_id: str, n: int, now_s: float) -> None:
        """Charge n output tokens as far as they are not paid for by a prediction."""
        record = self._backlog.record(request_id)
        record.generated += n
        due = self._exact(record)
        if due > record.charged:
            self._settle(self._tenants[record.request.tenant], record, due)

    def finish(self, request_id: str, now_s: float) -> None:
        """End a running request: refund what was predicted and not generated, learn its length."""
        record = self._backlog.end(request_id)
        self._predictor.learn(record.request, record.generated)
        self._end(record)

    def cancel(self, request_id: str, now_s: float) -> None:
        """End a request without learning from its length; a waiting one costs nothing beyond what it was served."""
        if request_id in self._backlog.running:
            self._end(self._backlog.end(request_id))
            return
        request, record = self._backlog.leave(request_id)
        tenant = self._tenants[request.tenant]
        tenant.waiting.remove(request)
        if record is not None:
            self._settle(tenant, record, self._exact(record))
        self._left_queue(tenant)
        self._idle(tenant)

    def preempted(self, request_id: str, now_s: float) -> None:
        """Return a running request to the head of its tenant's queue; its next start charges nothing."""
        request = self._backlog.put_back(request_id)
        tenant = self._tenants[request.tenant]
        tenant.running -= 1
        if not tenant.waiting:
            self._joins_queue(tenant)
        tenant.waiting.appendleft(request)
        self._queued(tenant)

    def cached(self, request_id: str, tokens: int, now_s: float) -> None:
        """Charge so many tokens of a running request's prompt at the price of cached ones."""
        record = self._backlog.record(request_id)
        paid, before = record.charged, self._exact(record)
        record.cached_tokens = tokens
        self._settle(self._tenants[record.request.tenant], record, paid + self._exact(record) - before)

    def snapshot(self) -> dict[str, Any]:
        """The state as JSON values."""
        return {
            "origin": self._origin,
            "first_seen": dict(self._first_seen),
            "counters": self.counters,
            "queues": {name: [request.id for request in t.waiting] for name, t in self._tenants.items() if t.waiting},
            "backlog": self._backlog.snapshot(),
            "predictor": self._predictor.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over a snapshot of a policy with the same options and weights."""
        self._origin = state["origin"]
        self._first_seen = dict(state["first_seen"])
        self._backlog.restore(state["backlog"])
        self._predictor.restore(state["predictor"])
        self._tenants = {}
        for name, counter in state["counters"].items():
            self._tenant(name).counter = counter
        for name, ids in state["queues"].items():
            for request_id in ids:
                self._tenants[name].waiting.append(self._backlog.waiting[request_id])
        for record in self._backlog.running.values():
            self._tenants[record.request.tenant].running += 1
        self._heap.rebuild(list(self._tenants.values()))

    def _tenant(self, name: str) -> Tenant:
        tenant = self._tenants.get(name)
        if tenant is None:
            index = self._first_seen.setdefault(name, len(self._first_seen))
            tenant = Tenant(name, index, self._weights.get(name, 1.0), self._origin, self._new_queue())
            self._tenants[name] = tenant
        return tenant

    def correct(self, request_id: str, *, prompt_tokens: int, output_tokens: int) -> None:
        """Replace a running request's estimated counts by the true ones; the counter follows, also downwards."""
        record = self._backlog.record(request_id)
        if prompt_tokens != record.request.prompt_tokens:
            record.request = replace(record.request, prompt_tokens=prompt_tokens)
        record.generated = output_tokens
        self._settle(self._tenants[record.request.tenant], record, self._exact(record))

    def counter(self, tenant: str) -> float | None:
        """The tenant's cost units per weight on a scale that no rebase shifts; None if it is forgotten."""
        known = self._tenants.get(tenant)
        return None if known is None else known.counter - self._origin

    def raise_to(self, tenant: str, counter: float) -> None:
        """Bring a tenant's counter up to `counter`, on the scale of `counter()`: it was served in another life."""
        known = self._tenant(tenant)
        self.add(tenant, max(0.0, counter + self._origin - known.counter))

    def add(self, tenant: str, cost: float) -> None:
        """Add cost units per weight to a tenant's counter: it was served elsewhere."""
        known = self._tenant(tenant)
        known.counter += cost
        self._heap.put(known)
        self._idle(known)

    def least_waiting(self) -> float | None:
        """The least counter in the queue, on the scale of `counter()`; None if nobody waits."""
        least = self._heap.least()
        return None if least is None else least.counter - self._origin

    def lift_floor(self) -> float | None:
        """The counter that a tenant who comes now is lifted to, on the scale of `counter()`; None if it is not."""
        return None

    def _new_queue(self) -> WaitingQueue:
        urgency, backlog = self._urgency, self._backlog
        if urgency is None:
            return deque()
        # who ran before has no arrival any more, and goes first
        return UrgencyQueue(
            lambda request: urgency(request, backlog.since[request.id]) if request.id in backlog.since else None
        )

    def _joins_queue(self, tenant: Tenant) -> None:
        """Called before a tenant with nothing waiting queues a request."""

    def _queued(self, tenant: Tenant) -> None:
        self._heap.put(tenant)

    def _left_queue(self, tenant: Tenant) -> None:
        """Called after a request of the tenant has left the queue."""

    def _idle(self, tenant: Tenant) -> None:
        """Called when the tenant may have nothing waiting and nothing running."""

    def _end(self, record: Running) -> None:
        tenant = self._tenants[record.request.tenant]
        tenant.running -= 1
        self._settle(tenant, record, self._exact(record))
        self._idle(tenant)

    def _exact(self, record: Running) -> float:
        return self._billing.due(record, record.generated)

    def _settle(self, tenant: Tenant, record: Running, due: float) -> None:
        """Bring what the record was charged to `due` cost units; the tenant's counter follows, by its weight."""
        tenant.counter += (due - record.charged) / tenant.weight
        record.charged = due
        self._heap.put(tenant)
        if tenant.counter > self._rebase_at:
            self._rebase()

    def _rebase(self) -> None:
        floor = min(tenant.counter for tenant in self._tenants.values())
        self._origin -= floor
        self._rebase_at = max(self._rebase_at, 2.0 * (self._highest() - floor))
        for tenant in self._tenants.values():
            tenant.counter -= floor
        self._heap.rebuild(list(self._tenants.values()))

    def _highest(self) -> float:
        return max(tenant.counter for tenant in self._tenants.values())


class VirtualTokenCounter(LeastCounterFirst):
    """The paper's policy: least counter first, with the lift.

    A tenant that has nothing waiting or running, and whose counter is not above the least in the queue, is forgotten:
    its lift would bring it there anyway. What stays is its place among ties. Refunds can lower the least counter, so
    with a predictor nobody is forgotten.
    """

    def __init__(
        self,
        *,
        billing: Billing | None = None,
        weights: Mapping[str, float] | None = None,
        predictor: Predictor | None = None,
        urgency: Urgency | None = None,
        forget: bool = True,
        rebase_at: float = REBASE_AT,
    ) -> None:
        super().__init__(billing=billing, weights=weights, predictor=predictor, urgency=urgency, rebase_at=rebase_at)
        self._forget = forget and predictor is None
        self._last_left: Tenant | None = None
        self._idlers: list[tuple[float, int, str]] = []

    def snapshot(self) -> dict[str, Any]:
        """The state as JSON values."""
        last = self._last_left
        known = last is not None and self._tenants.get(last.name) is last
        return {**super().snapshot(), "last_left": last.name if last is not None and known else None}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over a snapshot of a policy with the same options and weights."""
        super().restore(state)
        self._last_left = self._tenants.get(state["last_left"])
        self._idlers = sorted((t.counter, t.index, t.name) for t in self._tenants.values() if not self._busy(t))

    def lift_floor(self) -> float | None:
        """The counter that a tenant who comes now is lifted to, on the scale of `counter()`; None if it is not."""
        least = self._heap.least() or self._last_left
        return None if least is None else least.counter - self._origin

    def _joins_queue(self, tenant: Tenant) -> None:
        least = self._heap.least() or self._last_left
        if least is not None:
            tenant.counter = max(tenant.counter, least.counter)

    def _queued(self, tenant: Tenant) -> None:
        super()._queued(tenant)
        self._drop_idlers()

    def _left_queue(self, tenant: Tenant) -> None:
        if not tenant.waiting:
            # never forgotten while it can matter: that takes a queue, and the next to empty it comes here
            self._last_left = tenant
        self._drop_idlers()

    def _idle(self, tenant: Tenant) -> None:
        if self._forget and not self._busy(tenant):
            heapq.heappush(self._idlers, (tenant.counter, tenant.index, tenant.name))
            self._drop_idlers()

    @staticmethod
    def _busy(tenant: Tenant) -> bool:
        return bool(tenant.waiting) or tenant.running > 0

    def _drop_idlers(self) -> None:
        """Forget every idle tenant whose counter the queue's least has reached."""
        if not self._forget or not self._idlers or (least := self._heap.least()) is None:
            return
        while self._idlers and self._idlers[0][0] <= least.counter:
            counter, _, name = heapq.heappop(self._idlers)
            tenant = self._tenants.get(name)
            if tenant is not None and tenant.counter == counter and not self._busy(tenant):
                del self._tenants[name]

    def _rebase(self) -> None:
        before = self._origin
        super()._rebase()
        shift = before - self._origin
        self._idlers = [(counter - shift, index, name) for counter, index, name in self._idlers]
