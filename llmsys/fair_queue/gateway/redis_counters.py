"""Counters in Redis (or Valkey): one Lua script does a sync, so that it is one step for every replica."""

import contextlib
from typing import TYPE_CHECKING, Any

from llmsys.errors import Unavailable
from llmsys.fair_queue.gateway.shared import STALE_S, Answer, Away, Held, SharedStore, Told

if TYPE_CHECKING:
    from redis.asyncio import Redis

__all__ = ["RedisCounters", "RedisStore"]

PREFIX = "llmsys:fair:"

# KEYS: counters, lifts, least waiting by replica, last seen by replica, number of the replica's last sync. ARGV:
# replica, stale after ms, number, its least or '', its floor or '', then tenant, lift, served. Returns: least of the
# others or '', floor, then counter and lift of each tenant in the order given.
SYNC = """
local counters, lifts, leasts, seen, last = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
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
if ARGV[4] == '' then redis.call('ZREM', leasts, ARGV[1]) else redis.call('ZADD', leasts, ARGV[4], ARGV[1]) end
if ARGV[5] ~= '' then redis.call('ZADD', counters, 'GT', ARGV[5], '\\0floor') end
local again = redis.call('GET', last) == ARGV[3]
redis.call('SET', last, ARGV[3], 'EX', 86400)
local result = {others, redis.call('ZSCORE', counters, '\\0floor') or ''}
for i = 6, #ARGV, 3 do
  local tenant, lift, served = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local more = again and 0 or served
  local lifted = redis.call('ZSCORE', lifts, tenant) or '0'
  if not again and tonumber(lift) > tonumber(lifted) then
    redis.call('ZADD', lifts, lift, tenant)
    redis.call('ZINCRBY', counters, tonumber(lift) - tonumber(lifted), tenant)
    lifted = lift
  end
  result[#result + 1] = redis.call('ZINCRBY', counters, more, tenant)
  result[#result + 1] = lifted
end
return result
"""


class RedisCounters:
    """Shared counters at a redis:// URL. Raises Unavailable if the `redis` package is missing."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._client = _client(url)
        self._script = self._client.register_script(SYNC)

    async def read(self) -> tuple[Held, float | None]:
        """Every counter with its lift, and the floor."""
        from redis.exceptions import RedisError

        try:
            found: Any = await self._client.zrange(PREFIX + "counters", 0, -1, withscores=True)
            lifted: Any = await self._client.zrange(PREFIX + "lifts", 0, -1, withscores=True)
        except (RedisError, OSError) as error:
            raise Away(f"{self._url}: {error}") from error
        lifts = dict(lifted)
        held = {name.decode(): (float(score), float(lifts.get(name, 0.0))) for name, score in found}
        floor, _ = held.pop("\0floor", (None, 0.0))
        return held, floor

    async def sync(self, told: Told) -> Answer:
        """One sync, as one step of the server."""
        from redis.exceptions import RedisError

        keys = [PREFIX + name for name in ("counters", "lifts", "leasts", "seen", f"last:{told.replica}")]
        given: list[str | int] = [told.replica, int(STALE_S * 1000), told.number]
        given += (_number(told.least), _number(told.floor))
        for tenant, lift, served in told.rows:
            given += (tenant, repr(lift), repr(served))
        try:
            found = await self._script(keys=keys, args=given)
        except (RedisError, OSError) as error:
            raise Away(f"{self._url}: {error}") from error
        least, floor = (float(value) if value else None for value in found[:2])
        values = [float(value) for value in found[2:]]
        return Answer(least, floor, list(zip(values[::2], values[1::2], strict=True)))

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
