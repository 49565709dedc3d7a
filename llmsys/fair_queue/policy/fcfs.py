"""First come, first served, and the two limits that providers put in front of it: requests and tokens per minute.

Knows no memory and no fairness: these are the baselines (VTC, §5.1).
"""

from collections import deque
from collections.abc import Callable
from typing import Any

from llmsys.fair_queue.policy.backlog import Backlog
from llmsys.fair_queue.policy.protocol import QUEUED, Decision, Request

__all__ = ["FirstComeFirstServed", "RequestsPerMinute", "TokensPerMinute"]

MINUTE_S = 60.0


class FirstComeFirstServed:
    """Admit by arrival, whoever asks."""

    def __init__(self) -> None:
        self._backlog = Backlog()
        self._order: deque[Request] = deque()

    def arrive(self, request: Request, now_s: float) -> Decision:
        """Queue the request last."""
        self._backlog.queue(request, now_s)
        self._order.append(request)
        return QUEUED

    def admit(self, now_s: float, fits: Callable[[Request], bool]) -> list[Request]:
        """Admit from the head until a request does not fit."""
        admitted: list[Request] = []
        while self._order and fits(self._order[0]):
            request = self._order.popleft()
            self._backlog.start(request, now_s)
            admitted.append(request)
        return admitted

    def tokens(self, request_id: str, n: int, now_s: float) -> None:
        """Count n output tokens."""
        self._backlog.record(request_id).generated += n

    def finish(self, request_id: str, now_s: float) -> None:
        """Forget a running request."""
        self._backlog.end(request_id)

    def cancel(self, request_id: str, now_s: float) -> None:
        """Forget a waiting or running request."""
        if request_id in self._backlog.running:
            self._backlog.end(request_id)
            return
        request, _ = self._backlog.leave(request_id)
        self._order.remove(request)

    def preempted(self, request_id: str, now_s: float) -> None:
        """Return a running request to the head of the queue."""
        self._order.appendleft(self._backlog.put_back(request_id))

    def snapshot(self) -> dict[str, Any]:
        """The state as JSON values."""
        return {"backlog": self._backlog.snapshot(), "order": [request.id for request in self._order]}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over a snapshot of the same policy."""
        self._backlog.restore(state["backlog"])
        self._order = deque(self._backlog.waiting[request_id] for request_id in state["order"])


class RequestsPerMinute(FirstComeFirstServed):
    """Refuse a request whose tenant had `limit` accepted in the last 60 s (the artifact's `lshare_fair`), then FCFS."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit
        self._accepted: dict[str, deque[float]] = {}

    def arrive(self, request: Request, now_s: float) -> Decision:
        """Queue the request, or refuse it with the time at which its tenant's oldest acceptance expires."""
        accepted = self._accepted.setdefault(request.tenant, deque())
        while accepted and now_s - accepted[0] > MINUTE_S:
            accepted.popleft()
        if len(accepted) >= self._limit:
            retry_s = accepted[0] + MINUTE_S - now_s
            return Decision(False, f"{self._limit} requests a minute", retry_s)
        decision = super().arrive(request, now_s)
        accepted.append(now_s)
        return decision

    def snapshot(self) -> dict[str, Any]:
        """The state as JSON values."""
        return {**super().snapshot(), "accepted": {tenant: list(times) for tenant, times in self._accepted.items()}}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over a snapshot of the same policy."""
        super().restore(state)
        self._accepted = {tenant: deque(times) for tenant, times in state["accepted"].items()}


class TokensPerMinute(FirstComeFirstServed):
    """A bucket of `limit` tokens per tenant, refilled by limit/60 a second; input and output tokens drain it.

    A request may start while its tenant's bucket is above 0, so one that is larger than the bucket passes too and the
    bucket then owes. With `refuse`, a request that finds no tokens is refused; otherwise it waits and others pass it.
    """

    def __init__(self, limit: float, *, refuse: bool) -> None:
        super().__init__()
        self._limit = limit
        self._refuse = refuse
        self._level: dict[str, tuple[float, float]] = {}

    def arrive(self, request: Request, now_s: float) -> Decision:
        """Queue the request, or with `refuse` turn it away until its tenant's bucket is above 0."""
        wait_s = self._wait_s(request.tenant, now_s)
        if self._refuse and wait_s > 0:
            return Decision(False, f"{self._limit:g} tokens a minute", wait_s)
        return super().arrive(request, now_s)

    def admit(self, now_s: float, fits: Callable[[Request], bool]) -> list[Request]:
        """Admit by arrival, passing over tenants without tokens, until a request does not fit."""
        admitted: list[Request] = []
        held: deque[Request] = deque()
        while self._order:
            request = self._order[0]
            if not self._refuse and self._wait_s(request.tenant, now_s) > 0:
                held.append(self._order.popleft())
                continue
            if not fits(request):
                break
            self._order.popleft()
            if self._backlog.start(request, now_s)[1]:
                self._drain(request.tenant, request.prompt_tokens, now_s)
            admitted.append(request)
        self._order.extendleft(reversed(held))
        return admitted

    def tokens(self, request_id: str, n: int, now_s: float) -> None:
        """Drain n output tokens."""
        super().tokens(request_id, n, now_s)
        self._drain(self._backlog.record(request_id).request.tenant, n, now_s)

    def wake_s(self, now_s: float) -> float | None:
        """When the first bucket of a waiting tenant is above 0 again; None if one is now, or nobody waits."""
        waits = [self._wait_s(tenant, now_s) for tenant in {request.tenant for request in self._order}]
        if self._refuse or not waits or min(waits) <= 0:
            return None
        return now_s + min(waits)

    def snapshot(self) -> dict[str, Any]:
        """The state as JSON values."""
        return {**super().snapshot(), "level": {tenant: list(level) for tenant, level in self._level.items()}}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over a snapshot of the same policy."""
        super().restore(state)
        self._level = {tenant: (float(level), float(at_s)) for tenant, (level, at_s) in state["level"].items()}

    def _now(self, tenant: str, now_s: float) -> float:
        level, at_s = self._level.get(tenant, (self._limit, now_s))
        return min(self._limit, level + (now_s - at_s) * self._limit / MINUTE_S)

    def _drain(self, tenant: str, tokens: int, now_s: float) -> None:
        self._level[tenant] = (self._now(tenant, now_s) - tokens, now_s)

    def _wait_s(self, tenant: str, now_s: float) -> float:
        """Seconds until the tenant has a token; a bucket at 0 waits for one hundredth of a token."""
        level = self._now(tenant, now_s)
        return 0.0 if level > 0 else (0.01 - level) * MINUTE_S / self._limit
