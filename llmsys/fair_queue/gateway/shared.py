"""Counters that several gateways share through Redis (or Valkey): increments pushed, the others' read, every sync.

One Lua script does a sync: it brings lifted tenants up, adds what this replica served since the last one, and returns
what the tenants' counters are now and the least that waits at any other live replica. A replica's counters are its own
until the next sync, so the bound grows by replicas x service rate x sync. While Redis is away the replica goes on with
its own counters; what it served meanwhile goes with the first sync that succeeds. A sync whose answer is lost on the
way back is pushed again and counts twice.
"""

import contextlib
import uuid
from typing import TYPE_CHECKING, Any

from llmsys.errors import Unavailable
from llmsys.fair_queue.gateway.ledger import Batch, Remote
from llmsys.fair_queue.gateway.store import Saved

if TYPE_CHECKING:
    from redis.asyncio import Redis

__all__ = ["RedisStore"]

STALE_MS = 2000
PREFIX = "llmsys:fair:"

# KEYS: counters, least waiting by replica, last seen by replica. ARGV: replica, stale after ms, its least or '', its
# floor or '', then tenant, lifted to, served. Returns: least of the others or '', floor, counters in the order given.
SYNC = """
local counters, leasts, seen = KEYS[1], KEYS[2], KEYS[3]
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
for _, gone in ipairs(redis.call('ZRANGEBYSCORE', seen, '-inf', now - ARGV[2])) do
  redis.call('ZREM', seen, gone)
  redis.call('ZREM', leasts, gone)
end
redis.call('ZADD', seen, now, ARGV[1])
local others = ''
for _, member in ipairs(redis.call('ZRANGE', leasts, 0, 1)) do
  if others == '' and member ~= ARGV[1] then others = redis.call('ZSCORE', leasts, member) end
end
if ARGV[3] == '' then redis.call('ZREM', leasts, ARGV[1]) else redis.call('ZADD', leasts, ARGV[3], ARGV[1]) end
if ARGV[4] ~= '' then redis.call('ZADD', counters, 'GT', ARGV[4], '\\0floor') end
local result = {others, redis.call('ZSCORE', counters, '\\0floor') or ''}
for i = 5, #ARGV, 3 do
  if ARGV[i + 1] ~= '' then redis.call('ZADD', counters, 'GT', ARGV[i + 1], ARGV[i]) end
  result[#result + 1] = redis.call('ZINCRBY', counters, ARGV[i + 2], ARGV[i])
end
return result
"""


class RedisStore:
    """Shares counters at a redis:// URL. Raises Unavailable if the `redis` package is missing."""

    def __init__(self, url: str) -> None:
        self.fault: str | None = None
        self.shared = True
        self._url = url
        self._client = _client(url)
        self._script = self._client.register_script(SYNC)
        self._replica = uuid.uuid4().hex
        self._pushed: dict[str, float] = {}
        self._owed: dict[str, float] = {}
        self._lifted: dict[str, float] = {}

    async def load(self) -> Saved:
        """The shared counters as they are. An unreachable server is a fault, not an error: the gateway starts alone."""
        from redis.exceptions import RedisError

        try:
            found: Any = await self._client.zrange(PREFIX + "counters", 0, -1, withscores=True)
        except (RedisError, OSError) as error:
            self.fault = f"{self._url}: {error}"
            return Saved()
        counters = {name.decode(): float(score) for name, score in found}
        floor = counters.pop("\0floor", None)
        self._pushed = dict(counters)
        return Saved(counters=counters, floor=floor)

    async def push(self, batch: Batch) -> Remote | None:
        """Push what was served here, and return what was served elsewhere; None while the server is away."""
        from redis.exceptions import RedisError

        for tenant, counter in batch.counters.items():
            start = max(self._pushed.get(tenant, 0.0), batch.lifted.get(tenant, 0.0))
            self._owed[tenant] = self._owed.get(tenant, 0.0) + counter - start
            self._pushed[tenant] = counter
        self._lifted |= batch.lifted
        tenants = list({*self._owed, *self._lifted, *batch.active})
        given: list[str] = []
        for tenant in tenants:
            given += (tenant, _number(self._lifted.get(tenant)), repr(self._owed.get(tenant, 0.0)))
        keys = [PREFIX + name for name in ("counters", "leasts", "seen")]
        least, floor = _number(batch.least), _number(batch.floor)
        try:
            found = await self._script(keys=keys, args=[self._replica, STALE_MS, least, floor, *given])
        except (RedisError, OSError) as error:
            self.fault = f"{self._url}: {error}"
            return None
        self.fault = None
        self._owed.clear()
        self._lifted.clear()
        return self._others(tenants, found)

    def _others(self, tenants: list[str], found: list[bytes]) -> Remote:
        """What the counters now hold beyond what this replica has pushed."""
        served: dict[str, float] = {}
        for tenant, value in zip(tenants, found[2:], strict=True):
            now = float(value)
            ours = self._pushed.get(tenant, 0.0)
            if now > ours:
                served[tenant] = now - ours
            self._pushed[tenant] = now
        leasts = [float(value) for value in found[:2] if value]
        return Remote(served, min(leasts) if found[0] else max(leasts, default=None))

    async def keep_limits(self, tenant: str, json: str) -> None:
        """Limits are each replica's own: its tenants file says them."""

    async def close(self) -> None:
        """Close the connections."""
        from redis.exceptions import RedisError

        with contextlib.suppress(RedisError, OSError):
            await self._client.aclose()


def _number(value: float | None) -> str:
    return "" if value is None else repr(value)


def _client(url: str) -> "Redis":
    try:
        from redis.asyncio import Redis
    except ImportError as error:
        raise Unavailable("the package redis is not installed", "pip install 'llmsys[gateway-redis]'") from error
    return Redis.from_url(url, socket_timeout=1.0, socket_connect_timeout=1.0)
