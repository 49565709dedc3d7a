"""Counters in Redis (or Valkey): one Lua script does a sync, so that it is one step for every replica."""

import contextlib
from typing import TYPE_CHECKING, Any

from llmsys.errors import Unavailable
from llmsys.fair_queue.gateway.shared import STALE_S, Answer, Away, SharedStore, Told

if TYPE_CHECKING:
    from redis.asyncio import Redis

__all__ = ["RedisCounters", "RedisStore"]

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


class RedisCounters:
    """Shared counters at a redis:// URL. Raises Unavailable if the `redis` package is missing."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._client = _client(url)
        self._script = self._client.register_script(SYNC)

    async def read(self) -> tuple[dict[str, float], float | None]:
        """Every counter, and the floor."""
        from redis.exceptions import RedisError

        try:
            found: Any = await self._client.zrange(PREFIX + "counters", 0, -1, withscores=True)
        except (RedisError, OSError) as error:
            raise Away(f"{self._url}: {error}") from error
        counters = {name.decode(): float(score) for name, score in found}
        floor = counters.pop("\0floor", None)
        return counters, floor

    async def sync(self, told: Told) -> Answer:
        """One sync, as one step of the server."""
        from redis.exceptions import RedisError

        keys = [PREFIX + name for name in ("counters", "leasts", "seen")]
        given: list[str | int] = [told.replica, int(STALE_S * 1000), _number(told.least), _number(told.floor)]
        for tenant, lifted, served in told.rows:
            given += (tenant, _number(lifted), repr(served))
        try:
            found = await self._script(keys=keys, args=given)
        except (RedisError, OSError) as error:
            raise Away(f"{self._url}: {error}") from error
        least, floor = (float(value) if value else None for value in found[:2])
        return Answer(least, floor, [float(value) for value in found[2:]])

    async def close(self) -> None:
        """Close the connections."""
        from redis.exceptions import RedisError

        with contextlib.suppress(RedisError, OSError):
            await self._client.aclose()


class RedisStore(SharedStore):
    """Shares counters at a redis:// URL. Raises Unavailable if the `redis` package is missing."""

    def __init__(self, url: str) -> None:
        super().__init__(RedisCounters(url))


def _number(value: float | None) -> str:
    return "" if value is None else repr(value)


def _client(url: str) -> "Redis":
    try:
        from redis.asyncio import Redis
    except ImportError as error:
        raise Unavailable("the package redis is not installed", "pip install 'llmsys[gateway-redis]'") from error
    return Redis.from_url(url, socket_timeout=1.0, socket_connect_timeout=1.0)
