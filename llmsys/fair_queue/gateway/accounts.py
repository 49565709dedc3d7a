"""What the gateway knows of each tenant while it serves: its queue, its service, how long it waited.

Numbers only: plain attributes on the hot path, read by metrics, state and the admin interface. Bounded in number: the
totals of tenants that were idle longest move to one account, `other`.
"""

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator

from llmsys.fair_queue.gateway.tenants import TenantLimits

__all__ = ["OTHER", "Account", "Accounts", "Histogram"]

OTHER = "other"
MOST_ACCOUNTS = 20_000
MINUTE_S = 60.0
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class Histogram:
    """Counts of seconds in fixed buckets, as Prometheus has them."""

    __slots__ = ("counts", "total_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(SECONDS) + 1)
        self.total_s = 0.0

    def add(self, seconds: float) -> None:
        """Count one observation."""
        self.counts[bisect_left(SECONDS, seconds)] += 1
        self.total_s += seconds

    def buckets(self) -> Iterator[tuple[str, int]]:
        """Cumulative counts by upper bound, +Inf last."""
        total = 0
        for bound, count in zip((*SECONDS, math.inf), self.counts, strict=True):
            total += count
            yield ("+Inf" if math.isinf(bound) else str(bound)), total


class Account:
    """One tenant. Token counts are totals since the state began, `mean_gap_s` seconds between its dispatches."""

    __slots__ = (
        *("accepted", "cached_limits", "estimated", "last_dispatch_s", "last_s", "mean_gap_s", "name"),
        *("output_tokens", "prompt_tokens", "queued", "requests", "running"),
    )

    def __init__(self, name: str, limits: TenantLimits) -> None:
        self.name = name
        self.cached_limits = limits
        self.queued = 0
        self.running = 0
        self.requests = 0
        self.prompt_tokens = 0
        self.output_tokens = 0
        self.estimated = 0
        self.accepted: deque[float] = deque()
        self.last_s = 0.0
        self.last_dispatch_s = 0.0
        self.mean_gap_s = 0.0

    def dispatched(self, now_s: float) -> None:
        """A request of the tenant left the queue."""
        if self.last_dispatch_s:
            gap_s = now_s - self.last_dispatch_s
            self.mean_gap_s = gap_s if not self.mean_gap_s else 0.9 * self.mean_gap_s + 0.1 * gap_s
        self.last_dispatch_s = now_s

    def retry_after_s(self) -> int:
        """Whole seconds in which a tenth of the tenant's queue drains, as measured; at least one."""
        return max(1, math.ceil(self.mean_gap_s * max(1, self.queued // 10)))

    def over_rpm_s(self, now_s: float) -> float:
        """Seconds until the tenant's limit of requests a minute lets one in; 0 if it does now."""
        limit = self.cached_limits.rpm
        if limit is None:
            return 0.0
        while self.accepted and now_s - self.accepted[0] >= MINUTE_S:
            self.accepted.popleft()
        return self.accepted[0] + MINUTE_S - now_s if len(self.accepted) >= limit else 0.0

    def accept(self, now_s: float) -> None:
        """A request is queued."""
        self.queued += 1
        self.requests += 1
        self.last_s = now_s
        if self.cached_limits.rpm is not None:
            self.accepted.append(now_s)

    @property
    def idle(self) -> bool:
        """Whether nothing of the tenant waits or runs."""
        return not self.queued and not self.running


class Accounts:
    """All tenants by name."""

    def __init__(self) -> None:
        self._by_name: dict[str, Account] = {}
        self.other = Account(OTHER, TenantLimits())

    def of(self, name: str, limits: TenantLimits) -> Account:
        """The tenant's account, made if it is new."""
        account = self._by_name.get(name)
        if account is None:
            account = self._by_name[name] = Account(name, limits)
        return account

    def get(self, name: str) -> Account | None:
        """The tenant's account, if there is one."""
        return self._by_name.get(name)

    def __iter__(self) -> Iterator[Account]:
        return iter(self._by_name.values())

    def __len__(self) -> int:
        return len(self._by_name)

    def prune(self, now_s: float) -> None:
        """Past MOST_ACCOUNTS, move the totals of those idle longest, and for over a minute, to `other`."""
        excess = len(self._by_name) - MOST_ACCOUNTS
        if excess <= 0:
            return
        idle = [one for one in self if one.idle and now_s - one.last_s > MINUTE_S]
        for account in sorted(idle, key=lambda one: one.last_s)[: excess + MOST_ACCOUNTS // 10]:
            del self._by_name[account.name]
            self.other.requests += account.requests
            self.other.prompt_tokens += account.prompt_tokens
            self.other.output_tokens += account.output_tokens
            self.other.estimated += account.estimated
