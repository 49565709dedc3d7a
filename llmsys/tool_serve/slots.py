"""Who may run a tool next: bounds for all calls, for each tool and for each tenant, tenants served in turn.

Within a tenant, calls start in the order they came, except that a call whose tool is full lets later ones pass. Knows
no call's state and no clock.
"""

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from llmsys.tool_serve.faults import Overloaded

__all__ = ["Slots"]


@dataclass(slots=True, eq=False)
class _Waiter:
    tenant: str
    tool: str
    limit: int
    granted: asyncio.Future[None]


class Slots:
    """`max_calls` at once; `max_waiting` may queue; `tenant_calls` of one tenant at once (0: no bound of its own)."""

    def __init__(self, max_calls: int, max_waiting: int, tenant_calls: int = 0) -> None:
        if max_calls < 1 or max_waiting < 0 or tenant_calls < 0:
            raise ValueError(f"max_calls {max_calls}, max_waiting {max_waiting}, tenant_calls {tenant_calls} < 0")
        self._max_calls = max_calls
        self._max_waiting = max_waiting
        self._tenant_calls = tenant_calls
        self._by_tool: Counter[str] = Counter()
        self._by_tenant: Counter[str] = Counter()
        self._waiting: OrderedDict[str, deque[_Waiter]] = OrderedDict()

    @property
    def running(self) -> int:
        """Calls that hold a slot."""
        return self._by_tenant.total()

    @property
    def waiting(self) -> int:
        """Calls that wait for one."""
        return sum(map(len, self._waiting.values()))

    @asynccontextmanager
    async def hold(self, tenant: str, tool: str, limit: int) -> AsyncIterator[None]:
        """A slot for the block. limit: calls of this tool at once, 0 for no bound. Raises Overloaded."""
        await self._take(tenant, tool, limit)
        try:
            yield
        finally:
            self._by_tool[tool] -= 1
            self._by_tenant[tenant] -= 1
            self._grant()

    async def _take(self, tenant: str, tool: str, limit: int) -> None:
        waiter = _Waiter(tenant, tool, limit, asyncio.get_running_loop().create_future())
        if self.waiting >= self._max_waiting and not self._fits(waiter):
            raise Overloaded(self.waiting)
        self._waiting.setdefault(tenant, deque()).append(waiter)
        self._grant()
        try:
            await waiter.granted
        except asyncio.CancelledError:
            if waiter.granted.done() and not waiter.granted.cancelled():  # granted and cancelled in one go
                self._by_tool[tool] -= 1
                self._by_tenant[tenant] -= 1
                self._grant()
            elif waiter in self._waiting.get(tenant, ()):
                self._waiting[tenant].remove(waiter)
            raise

    def _fits(self, waiter: _Waiter) -> bool:
        return (
            self.running < self._max_calls
            and (not waiter.limit or self._by_tool[waiter.tool] < waiter.limit)
            and (not self._tenant_calls or self._by_tenant[waiter.tenant] < self._tenant_calls)
        )

    def _grant(self) -> None:
        """Give out what is free, one call of each tenant in turn."""
        given = True
        while given:
            given = False
            for tenant in list(self._waiting):
                given = self._grant_one(tenant) or given

    def _grant_one(self, tenant: str) -> bool:
        queue = self._waiting[tenant]
        chosen = next((one for one in queue if not one.granted.done() and self._fits(one)), None)
        if chosen is None:
            if not queue:
                del self._waiting[tenant]
            return False
        queue.remove(chosen)
        self._waiting.move_to_end(tenant)  # served: behind all others that wait
        if not queue:
            del self._waiting[tenant]
        self._by_tool[chosen.tool] += 1
        self._by_tenant[tenant] += 1
        chosen.granted.set_result(None)
        return True
