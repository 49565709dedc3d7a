"""The adapters of one replica: registered as the gateway names them, read outside the engine's thread, pinned if told.

Knows nothing of requests or messages.
"""

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from llmsys.engine.core import Engine
from llmsys.engine.errors import AdapterBusy, AdapterError
from llmsys.engine.server_loop import AsyncEngine
from llmsys.serve_lora.adapter_shelf import AdapterShelf
from llmsys.serve_lora.fleet.messages import AdapterRef
from llmsys.serve_lora.server.registry import Slots

__all__ = ["AdapterBook"]


class AdapterBook:
    """What a replica knows of names. ranks: filled with the rank of every adapter that the engine knows."""

    def __init__(self, door: AsyncEngine, pool: Slots, shelf: AdapterShelf, ranks: dict[str, int]) -> None:
        self._door, self._pool, self._shelf, self._ranks = door, pool, shelf, ranks
        self._known: dict[str, AdapterRef] = {}
        self._pinned: dict[str, tuple[int, int]] = {}
        self._lock = asyncio.Lock()

    async def prepare(self, ref: AdapterRef, *, resumed: bool) -> None:
        """Bring an adapter to the host and let the engine know it, if its content is still what the gateway saw.

        resumed: part of the answer is there already, which another adapter must not go on with. Raises AdapterError.
        """
        async with self._lock:
            known = self._known.get(ref.name)
            if known is not None and known.generation > ref.generation:
                if resumed:
                    raise AdapterError(f"adapter {ref.name!r} was replaced while its answer moved to another replica")
                return
            file = await asyncio.wrap_future(self._shelf.bring(_path(ref)))
            if file.digest.hex() != ref.digest:
                raise AdapterError(f"adapter {ref.name!r} was replaced after the gateway had read it; ask again")
            if known != ref:
                self._known[ref.name] = ref
                self._ranks[ref.name] = file.rank
                await self._in_engine(partial(_register, ref))

    async def hold(self, refs: Iterable[AdapterRef], forgotten: Iterable[str]) -> None:
        """Pin these adapters and no others, as far as there are slots, and forget names."""
        wanted = {ref.name: ref for ref in refs}
        for name, (generation, slot) in list(self._pinned.items()):
            if name not in wanted or wanted[name].generation != generation:
                del self._pinned[name]
                await self._in_engine(partial(_release, slot))
        for name in wanted.keys() - self._pinned.keys():
            await self._pin(wanted[name])
        for name in set(forgotten) & self._known.keys():
            del self._known[name]
            self._ranks.pop(name, None)
            await self._in_engine(partial(_unregister, name))

    async def _pin(self, ref: AdapterRef) -> None:
        try:
            await self.prepare(ref, resumed=False)
            slot = await self._door.call(lambda _: self._pool.acquire(ref.name))
        except (AdapterBusy, AdapterError):  # then it is as any other here; the gateway has checked its files
            return
        self._pinned[ref.name] = (ref.generation, slot)

    async def _in_engine(self, action: Callable[[Slots], None]) -> None:
        def perform(_: Engine) -> None:
            action(self._pool)

        await self._door.call(perform)


def _path(ref: AdapterRef) -> Path:
    return Path(ref.path)


def _register(ref: AdapterRef, pool: Slots) -> None:
    pool.register(ref.name, _path(ref))


def _release(slot: int, pool: Slots) -> None:
    pool.release(slot)


def _unregister(name: str, pool: Slots) -> None:
    pool.unregister(name)
