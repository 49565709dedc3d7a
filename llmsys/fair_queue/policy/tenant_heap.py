"""Tenants with waiting requests, least counter first: a heap whose stale entries are put right when they surface.

Knows counters and queues, not what is charged. Ties go to the tenant seen first.
"""

import heapq
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from llmsys.fair_queue.policy.protocol import Request

__all__ = ["Tenant", "TenantHeap", "WaitingQueue"]


class WaitingQueue(Protocol):
    """One tenant's waiting requests, next first: a deque, or one that sorts what is appended."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Request]: ...
    def __getitem__(self, index: int, /) -> Request: ...
    def append(self, request: Request, /) -> None: ...
    def appendleft(self, request: Request, /) -> None: ...
    def popleft(self) -> Request: ...
    def remove(self, request: Request, /) -> None: ...


@dataclass(slots=True, eq=False)
class Tenant:
    """One client: `counter` in cost units per weight, `index` its place among ties, `entry` its key in the heap."""

    name: str
    index: int
    weight: float
    counter: float = 0.0
    waiting: WaitingQueue = field(default_factory=deque[Request])
    running: int = 0
    entry: float | None = None

    def __lt__(self, other: "Tenant") -> bool:
        """Either may come first: only entries of a tenant that was forgotten and came back have equal keys."""
        return False


class TenantHeap:
    """Lazy min-heap: a counter that grows touches nothing, so a token costs O(1) and an admission O(log tenants).

    Every waiting tenant has one valid entry whose key is at most its counter; `least` refreshes keys at the top.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Tenant]] = []

    def put(self, tenant: Tenant) -> None:
        """Make sure that the tenant, who has come to wait or whose counter has fallen, can be found."""
        if tenant.waiting and (tenant.entry is None or tenant.counter < tenant.entry):
            tenant.entry = tenant.counter
            heapq.heappush(self._heap, (tenant.counter, tenant.index, tenant))

    def least(self) -> Tenant | None:
        """The waiting tenant with the least counter, or None if nobody waits."""
        heap = self._heap
        while heap:
            key, _, tenant = heap[0]
            if tenant.entry != key:
                heapq.heappop(heap)
            elif not tenant.waiting:
                heapq.heappop(heap)
                tenant.entry = None
            elif tenant.counter != key:
                tenant.entry = tenant.counter
                heapq.heapreplace(heap, (tenant.counter, tenant.index, tenant))
            else:
                return tenant
        return None

    def rebuild(self, tenants: list[Tenant]) -> None:
        """Start again from the tenants that wait, after all counters have moved."""
        self._heap.clear()
        for tenant in tenants:
            tenant.entry = None
            self.put(tenant)
