"""The built-in owner of shared counters: one process holds them, the others ask over a Unix socket.

A message is a line of JSON, and its answer another; both sides are this module. What changed is written to the store
behind, in the background: syncs do not wait for the disk. Knows no policy and no request.
"""

import asyncio
import shutil
import socket
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from llmsys.fair_queue.gateway.ledger import Batch
from llmsys.fair_queue.gateway.shared import STALE_S, Answer, Away, Held, SharedStore, Told
from llmsys.fair_queue.gateway.store import Store

__all__ = ["CounterTable", "OwnerCounters", "OwnerSocket", "OwnerStore", "own"]

ANSWER_S = 1.0
LINE_BYTES = 1 << 26
REMEMBERED = 1024
"""Replicas whose last sync is known, so that it counts once."""


class _Whole(msgspec.Struct):
    """All that an owner holds."""

    counters: Held
    floor: float | None


class CounterTable:
    """What the Redis script of `redis_counters.py` does, as one step of a process: the oracle of the other."""

    def __init__(self, counters: dict[str, float], floor: float | None) -> None:
        self.counters = counters
        self.floor = floor
        self._lifts: dict[str, float] = {}
        self._leasts: dict[str, tuple[float | None, float]] = {}
        self._last: dict[str, int] = {}

    def held(self) -> Held:
        """Every counter with its lift."""
        return {tenant: self._row(tenant) for tenant in self.counters}

    def sync(self, told: Told, now_s: float) -> Answer:
        """Take over what a replica says at a time, and answer it."""
        self._leasts[told.replica] = told.least, now_s
        self._leasts = {name: one for name, one in self._leasts.items() if one[1] > now_s - STALE_S}
        others = (least for name, (least, _) in self._leasts.items() if name != told.replica and least is not None)
        if told.floor is not None:
            self.floor = told.floor if self.floor is None else max(self.floor, told.floor)
        again = self._last.pop(told.replica, None) == told.number
        self._last[told.replica] = told.number
        if len(self._last) > REMEMBERED:
            del self._last[next(iter(self._last))]
        for tenant, lift, served in told.rows:
            self._add(tenant, 0.0 if again else lift, 0.0 if again else served)
        return Answer(min(others, default=None), self.floor, [self._row(tenant) for tenant, _, _ in told.rows])

    def _add(self, tenant: str, lift: float, served: float) -> None:
        lifted = self._lifts.get(tenant, 0.0)
        more = max(0.0, lift - lifted)
        self._lifts[tenant] = max(lift, lifted)
        self.counters[tenant] = self.counters.get(tenant, 0.0) + more + served

    def _row(self, tenant: str) -> tuple[float, float]:
        return self.counters[tenant], self._lifts.get(tenant, 0.0)


class OwnerSocket:
    """Where the owner listens, bound before any process is made: none can come too early. Removed at the end."""

    def __enter__(self) -> Self:
        self._directory = Path(tempfile.mkdtemp(prefix="llmsys-fair-"))
        self.path = self._directory / "owner"
        self.listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listening.bind(str(self.path))
        self.listening.listen(128)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.listening.close()
        shutil.rmtree(self._directory, ignore_errors=True)


async def own(listening: socket.socket, store: Store) -> None:
    """Answer syncs on a listening Unix socket until cancelled, and keep the counters in a store.

    Raises what the store raises when it is read; one that cannot be written is tried again with every change.
    """
    saved = await store.load()
    owner = _Owner(CounterTable(saved.counters, saved.floor), store)
    server = await asyncio.start_unix_server(owner.greet, sock=listening, limit=LINE_BYTES)
    keeping = asyncio.create_task(owner.keep())
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        server.close()
        await owner.end()
        await keeping
        await store.close()


class _Owner:
    def __init__(self, table: CounterTable, store: Store) -> None:
        self._table = table
        self._store = store
        self._changed: set[str] = set()
        self._change = asyncio.Event()
        self._ended = False
        self.conversations: set[asyncio.Task[None]] = set()

    def greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take a replica's connection."""
        task = asyncio.create_task(self._converse(reader, writer))
        self.conversations.add(task)
        task.add_done_callback(self.conversations.discard)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one replica until it leaves: an empty line asks for everything, any other is a sync."""
        try:
            while line := await reader.readline():
                writer.write(self._answer(line) + b"\n")
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    def _answer(self, line: bytes) -> bytes:
        if line == b"\n":
            return msgspec.json.encode(_Whole(self._table.held(), self._table.floor))
        told = msgspec.json.decode(line, type=Told)
        self._changed.update(row[0] for row in told.rows)
        self._change.set()
        return msgspec.json.encode(self._table.sync(told, time.monotonic()))

    async def keep(self) -> None:
        """Write what has changed since the last time, again and again until the end, and what is left then."""
        while self._changed or not self._ended:
            await self._change.wait()
            self._change.clear()
            changed, self._changed = self._changed, set()
            if changed:
                counters = {name: self._table.counters[name] for name in changed}
                await self._store.push(Batch(counters=counters, floor=self._table.floor))

    async def end(self) -> None:
        """Leave every replica; nothing changes any more."""
        talking = list(self.conversations)
        for task in talking:
            task.cancel()
        await asyncio.gather(*talking, return_exceptions=True)
        self._ended = True
        self._change.set()


class OwnerCounters:
    """Shared counters of the process that listens at a path."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def read(self) -> tuple[Held, float | None]:
        """Every counter with its lift, and the floor."""
        whole = msgspec.json.decode(await self._ask(b""), type=_Whole)
        return whole.counters, whole.floor

    async def sync(self, told: Told) -> Answer:
        """One sync."""
        return msgspec.json.decode(await self._ask(msgspec.json.encode(told)), type=Answer)

    async def close(self) -> None:
        """Leave the owner."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def _ask(self, line: bytes) -> bytes:
        try:
            async with asyncio.timeout(ANSWER_S):
                if self._streams is None:
                    self._streams = await asyncio.open_unix_connection(str(self._path), limit=LINE_BYTES)
                reader, writer = self._streams
                writer.write(line + b"\n")
                answer = await reader.readuntil(b"\n")
        except asyncio.CancelledError:
            await self.close()  # the answer to this line is not that to the next
            raise
        except (OSError, asyncio.IncompleteReadError) as error:  # TimeoutError is an OSError
            await self.close()
            raise Away(f"the owner of the counters does not answer: {str(error) or 'too late'}") from error
        return answer


class OwnerStore(SharedStore):
    """Shares counters through the owner that listens at a path."""

    def __init__(self, path: Path) -> None:
        super().__init__(OwnerCounters(path))
