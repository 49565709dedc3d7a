"""A replica's process: import, read one line that says what to be, load, listen, and end with standard input.

`python -m llmsys.serve_lora.fleet.process`; started by `launching` and, in its own way, by `ray_launching`.
"""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress

import msgspec

from llmsys.engine.server_loop import AsyncEngine
from llmsys.errors import LlmsysError, Unavailable
from llmsys.gpu import set_threads
from llmsys.lifeline import signal_at_parents_end
from llmsys.serve_lora.fleet.replica import Replica
from llmsys.serve_lora.fleet.spec import ReplicaSpec, Started
from llmsys.serve_lora.server.backend import load

__all__ = ["main", "run_replica"]


async def run_replica(spec: ReplicaSpec, *, ready: Callable[[Started], None], until: asyncio.Event) -> None:
    """Load, listen and work until told to stop; `ready` gets the address. Raises LlmsysError.

    A replica that stood by has done its imports before it was told: then they take no time of its start.
    """
    begun_s = time.time()
    stages_s = {"process and imports": begun_s - spec.told_unix_s}
    set_threads(spec.threads)
    loaded = await asyncio.to_thread(load, spec.settings(), since_unix_s=spec.told_unix_s)
    stages_s["model"] = time.time() - begun_s
    try:
        async with AsyncEngine(loaded.engine) as door:
            replica = Replica(loaded, door, stages_s)
            listening = await _listen(spec, replica)
            async with listening:
                ready(Started(_address(spec, listening)))
                await until.wait()
    finally:
        loaded.shelf.close()
        loaded.meter.close()


async def _listen(spec: ReplicaSpec, replica: Replica) -> asyncio.Server:
    """Take connections that say the word."""

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            said = await reader.readline()
        except (ConnectionError, ValueError):
            said = b""
        if said.strip() == spec.secret.encode():
            await replica.serve(reader, writer)
        else:
            writer.close()

    try:
        if spec.address.startswith("unix:"):
            return await asyncio.start_unix_server(greet, spec.address.removeprefix("unix:"))
        host, _, port = spec.address.rpartition(":")
        return await asyncio.start_server(greet, host, int(port))
    except OSError as error:
        raise Unavailable(f"cannot listen at {spec.address}: {error}", "choose another address") from error


def _address(spec: ReplicaSpec, listening: asyncio.Server) -> str:
    if spec.address.startswith("unix:"):
        return spec.address
    host, port = listening.sockets[0].getsockname()[:2]
    return f"{host}:{port}"


async def _run(spec: ReplicaSpec) -> None:
    """Run until standard input ends, which its owner holds open. One whose owner has gone before it is up just ends."""
    until = asyncio.Event()
    up = False

    def ready(started: Started) -> None:
        nonlocal up
        up = True
        _say(started)

    def at_input() -> None:
        if os.read(sys.stdin.fileno(), 1 << 12):
            return
        if not up:
            os._exit(0)  # a load cannot be called off, and holds nothing that outlives the process
        asyncio.get_running_loop().remove_reader(sys.stdin.fileno())  # an input at its end is readable for ever
        until.set()

    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), at_input)
    await run_replica(spec, ready=ready, until=until)


def _say(started: Started) -> None:
    with suppress(BrokenPipeError):
        sys.stdout.buffer.write(msgspec.json.encode(started) + b"\n")
        sys.stdout.buffer.flush()


def main() -> None:
    """Be a replica."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a gateway's Ctrl-C is the gateway's to act on
    signal_at_parents_end(signal.SIGCONT, os.getppid())  # one that was stopped must see its input end, too
    line = _first_line()
    if not line:
        return
    spec = msgspec.json.decode(line, type=ReplicaSpec)
    try:
        asyncio.run(_run(spec))
    except LlmsysError as error:
        _say(Started(fault=str(error), exit_code=error.exit_code))


def _first_line() -> bytes:
    """One line, read byte by byte so that what follows stays in the pipe."""
    line = bytearray()
    while (byte := os.read(sys.stdin.fileno(), 1)) and byte != b"\n":
        line += byte
    return bytes(line)


if __name__ == "__main__":
    main()
