"""Where replicas come from: as processes of this machine, each told what to be by one line and ended by the next.

A process imports what is heavy before it reads its line, so that some can stand by with nothing left to do but load.
It lives as long as its standard input is open: a gateway that is killed leaves none behind. Knows nothing of requests.
"""

import asyncio
import os
import sys
import tempfile
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import msgspec

from llmsys.errors import LlmsysError
from llmsys.serve_lora.fleet.spec import ReplicaSpec, Started

__all__ = ["Handle", "Launcher", "ProcessHandle", "ProcessLauncher", "ReplicaFault"]

STOP_S = 10.0


class Handle(Protocol):
    """A replica that has been started: where it listens, the word that it wants to hear, its process."""

    @property
    def address(self) -> str:
        """`unix:PATH` or `HOST:PORT`."""

    @property
    def secret(self) -> str:
        """The first line of a connection."""

    @property
    def pid(self) -> int:
        """Its process, on its own machine."""

    async def stop(self) -> None:
        """End it and wait until it is gone; it closes its ledger if it can."""


class Launcher(Protocol):
    """A source of replicas."""

    async def launch(self, number: int) -> Handle:
        """Start one and wait until it listens. Raises LlmsysError with what it said if it does not come up."""

    async def close(self) -> None:
        """Let go of what stands by."""


class ProcessLauncher:
    """Replicas as child processes; `standby` of them are kept ready to load."""

    def __init__(self, spec: ReplicaSpec, *, standby: int) -> None:
        self._spec = spec
        self._standby = standby
        self._waiting: deque[asyncio.subprocess.Process] = deque()
        self._place = tempfile.TemporaryDirectory(prefix="llmsys-")

    async def launch(self, number: int) -> "ProcessHandle":
        """As the protocol says."""
        process = self._waiting.popleft() if self._waiting else await _spawn()
        path = Path(self._place.name) / f"{number}.sock"
        spec = self._spec.numbered(number, address=f"unix:{path}")
        started = await _told(process, spec)
        await self._stand_by()
        return ProcessHandle(process, started.address, spec.secret)

    async def close(self) -> None:
        """As the protocol says."""
        await asyncio.gather(*(_end(process) for process in self._waiting))
        self._waiting.clear()
        self._place.cleanup()

    async def _stand_by(self) -> None:
        while len(self._waiting) < self._standby:
            self._waiting.append(await _spawn())


class ProcessHandle:
    """A child process that listens."""

    def __init__(self, process: asyncio.subprocess.Process, address: str, secret: str) -> None:
        self.address = address
        self.secret = secret
        self._process = process

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    async def stop(self) -> None:
        """As the protocol says; one that does not end is killed."""
        await _end(self._process)


async def _spawn() -> asyncio.subprocess.Process:
    command: Sequence[str] = (sys.executable, "-m", "llmsys.serve_lora.fleet.process")
    return await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env=os.environ, start_new_session=True
    )


async def _told(process: asyncio.subprocess.Process, spec: ReplicaSpec) -> Started:
    """Tell a process what to be and hear that it is. Raises LlmsysError with its fault."""
    assert process.stdin is not None
    assert process.stdout is not None
    with suppress(ConnectionError):
        process.stdin.write(msgspec.json.encode(spec) + b"\n")
        await process.stdin.drain()
    try:
        line = await process.stdout.readline()
    except asyncio.CancelledError:
        process.kill()
        raise
    if not line:
        raise LlmsysError(f"a replica ended with status {await process.wait()} before it was ready")
    started = msgspec.json.decode(line, type=Started)
    if started.fault:
        await _end(process)
        raise ReplicaFault(started.fault, started.exit_code)
    return started


class ReplicaFault(LlmsysError):
    """Why a replica did not start, in its own words and with its own exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]


async def _end(process: asyncio.subprocess.Process) -> None:
    """Close a process's input, which ends it; kill it if it does not."""
    if process.stdin is not None:
        process.stdin.close()
    try:
        await asyncio.wait_for(process.wait(), STOP_S)
    except TimeoutError:
        process.kill()
        await process.wait()
