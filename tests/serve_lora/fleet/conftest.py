"""A fleet in the test's own event loop: real replicas over real sockets, their engines over stand-ins for weights."""

import asyncio
import tempfile
from contextlib import asynccontextmanager
from dataclasses import dataclass

from llmsys.engine.server_loop import AsyncEngine
from llmsys.errors import LlmsysError
from llmsys.fair_queue.policy import engine_policy
from llmsys.serve_lora.adapter_check import checked_reader
from llmsys.serve_lora.adapter_shelf import AdapterShelf
from llmsys.serve_lora.fleet.door import FleetDoor, FleetMeter, FleetSlots
from llmsys.serve_lora.fleet.fleet import Fleet
from llmsys.serve_lora.fleet.replica import Replica
from llmsys.serve_lora.fleet.settings import FleetSettings
from llmsys.serve_lora.server.settings import EngineSettings, ServerSettings
from tests.serve_lora.server.conftest import SHAPE, Endless, load_stand_ins

SECRET = "word"


@dataclass(eq=False)
class LocalHandle:
    """A replica in this process; `kill` cuts its connections as a dead process would."""

    address: str
    listening: asyncio.Server
    until: asyncio.Event
    running: asyncio.Task
    loaded: object
    writers: list
    secret: str = SECRET
    pid: int = 0

    def kill(self):
        for writer in self.writers:
            writer.transport.abort()

    async def stop(self):
        self.until.set()
        await self.running

    def leaks(self):
        return self.loaded.engine.stats().blocks.referenced, self.loaded.pool.references()


class LocalLauncher:
    """Replicas of `make_runner()`; the first `faults` starts fail. clock: of their meters; without one, time stands."""

    def __init__(self, make_runner=Endless, *, faults=0, blocks=4096, clock=None, **engine):
        self.handles = []
        self.faults = faults
        self.attempts = 0
        self._make_runner, self._blocks, self._clock = make_runner, blocks, clock
        self._settings = ServerSettings("speller", engine=EngineSettings(**{"max_sequences": 4} | engine))
        self._place = tempfile.TemporaryDirectory()

    async def launch(self, number):
        self.attempts += 1
        if self.faults > 0:
            self.faults -= 1
            raise LlmsysError("no luck")
        loaded = load_stand_ins(self._make_runner(), self._settings, 4, self._blocks, self._clock)
        until, is_up, writers = asyncio.Event(), asyncio.get_running_loop().create_future(), []

        async def greet(reader, writer):
            assert await reader.readline() == SECRET.encode() + b"\n"
            writers.append(writer)
            await replica.serve(reader, writer)

        async def run():
            nonlocal replica
            async with AsyncEngine(loaded.engine) as door:
                replica = Replica(loaded, door, {"model": 0.0})
                path = f"{self._place.name}/{number}"
                async with await asyncio.start_unix_server(greet, path) as listening:
                    is_up.set_result((f"unix:{path}", listening))
                    await until.wait()
            loaded.shelf.close()

        replica = None
        running = asyncio.create_task(run())
        address, listening = await is_up
        self.handles.append(LocalHandle(address, listening, until, running, loaded, writers))
        return self.handles[-1]

    async def close(self):
        self._place.cleanup()

    def leaks(self):
        return [handle.leaks() for handle in self.handles]


@dataclass
class Opened:
    """A fleet, its door and what stands behind it."""

    fleet: Fleet
    door: FleetDoor
    slots: FleetSlots
    meter: FleetMeter
    shelf: AdapterShelf
    launcher: LocalLauncher

    async def answer(self, request):
        """Every event of a request."""
        return [event async for event in self.door.stream(request)]

    async def idle(self):
        """Wait until no replica has anything to do."""
        for handle in self.launcher.handles:
            while handle.loaded.engine.busy and not handle.until.is_set():
                await asyncio.sleep(0)


@asynccontextmanager
async def opened(launcher=None, *, policy="fcfs", max_queue=1000, **settings):
    launcher = launcher or LocalLauncher()
    settings = {"least": 2, "most": 2, "keep_alive_s": 1e9, "consolidate_s": 1e9, "places": 4} | settings
    fleet = Fleet(launcher, engine_policy(policy), FleetSettings(**settings), max_queue=max_queue)
    shelf = AdapterShelf(checked_reader(SHAPE, rank_max=64), limit_bytes=1 << 20)
    try:
        alike = await fleet.open()
        slots, meter = FleetSlots(fleet, shelf), FleetMeter(fleet)
        door = FleetDoor(fleet, slots, meter, seed=0, max_len=alike.ready.max_len)
        yield Opened(fleet, door, slots, meter, shelf, launcher)
    finally:
        shelf.close()
        await fleet.close()


def at_fleet(check, launcher=None, **settings):
    """Run `await check(opened fleet)` and return what it returns."""

    async def main():
        async with opened(launcher, **settings) as found:
            return await check(found)

    return asyncio.run(asyncio.wait_for(main(), 20))


async def until(condition):
    """Let the loop turn until something is so; the test's own limit of time ends what never is."""
    while not condition():
        await asyncio.sleep(0.001)
