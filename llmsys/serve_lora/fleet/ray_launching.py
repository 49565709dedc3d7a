"""Replicas as Ray actors: Ray places them, on this machine or on others, and ends them with the gateway.

Requests and tokens never pass through Ray: an actor listens, and the gateway connects to it as to any replica. Without
a running cluster, Ray is started on this machine. Knows nothing of requests.
"""

import asyncio
import os
import signal
import threading
from contextlib import suppress
from typing import Any

import msgspec

from llmsys.errors import LlmsysError, Unavailable
from llmsys.gpu import require
from llmsys.serve_lora.fleet.launching import ReplicaFault
from llmsys.serve_lora.fleet.process import run_replica
from llmsys.serve_lora.fleet.settings import RAY
from llmsys.serve_lora.fleet.spec import ReplicaSpec, Started

__all__ = ["RayHandle", "RayLauncher", "ReplicaActor"]

STOP_S = 10.0
ANY_PORT = "127.0.0.1:0"


class ReplicaActor:
    """The body of an actor: one replica in the actor's event loop."""

    def __init__(self) -> None:
        self._until = asyncio.Event()
        self._running: asyncio.Task[None] | None = None

    async def start(self, spec: bytes, *, everywhere: bool) -> bytes:
        """Be what the specification says and return a `Started`; everywhere: listen to other machines too."""
        wanted = msgspec.json.decode(spec, type=ReplicaSpec)
        if everywhere:
            wanted = msgspec.structs.replace(wanted, address=f"{require('ray').util.get_node_ip_address()}:0")
        started: asyncio.Future[Started] = asyncio.get_running_loop().create_future()
        self._running = asyncio.create_task(run_replica(wanted, ready=started.set_result, until=self._until))
        await asyncio.wait((started, self._running), return_when=asyncio.FIRST_COMPLETED)
        if started.done():
            return msgspec.json.encode(started.result())
        fault = self._running.exception()
        code = fault.exit_code if isinstance(fault, LlmsysError) else 1
        return msgspec.json.encode(Started(fault=str(fault), exit_code=code))

    async def pid(self) -> int:
        """The actor's process."""
        return os.getpid()

    async def stop(self) -> None:
        """Close what was opened."""
        self._until.set()
        if self._running is not None:
            await self._running


class RayLauncher:
    """A source of actors. cluster: "ray", or ray://HOST:PORT of one that runs. Raises Unavailable without Ray."""

    def __init__(self, spec: ReplicaSpec, cluster: str) -> None:
        self._ray = require("ray")
        self._spec = spec
        self._cluster = cluster

    async def launch(self, number: int) -> "RayHandle":
        """As the protocol says."""
        await asyncio.to_thread(self._connect)
        _take_signals_back()
        claimed = {"num_cpus": self._spec.threads, "num_gpus": int(self._spec.device.startswith("cuda"))}
        actor = self._ray.remote(ReplicaActor).options(**claimed).remote()
        spec = msgspec.json.encode(self._spec.numbered(number, address=ANY_PORT))
        try:
            told = await actor.start.remote(spec, everywhere=self._cluster != RAY)
            pid = await actor.pid.remote()
        except self._ray.exceptions.RayError as error:
            raise LlmsysError(f"an actor did not start: {error}") from error
        started = msgspec.json.decode(told, type=Started)
        if started.fault:
            self._ray.kill(actor)
            raise ReplicaFault(started.fault, started.exit_code)
        return RayHandle(self._ray, actor, started.address, self._spec.secret, pid)

    async def close(self) -> None:
        """Leave the cluster; one that was started for this ends."""
        await asyncio.to_thread(self._ray.shutdown)

    def _connect(self) -> None:
        """Join the cluster, once. Raises Unavailable if there is none where it was said to be."""
        if self._ray.is_initialized():
            return
        address = None if self._cluster == RAY else self._cluster
        try:
            self._ray.init(address, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise Unavailable(
                f"no Ray cluster at {self._cluster}: {error}", "start one with `ray start --head`"
            ) from error


def _take_signals_back() -> None:
    """Let Python have its signals again: Ray's own handlers abort a driver that is told to end."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.getsignal(number))


class RayHandle:
    """An actor that listens."""

    def __init__(self, ray: Any, actor: Any, address: str, secret: str, pid: int) -> None:  # noqa: ANN401
        self.address, self.secret, self.pid = address, secret, pid
        self._ray, self._actor = ray, actor

    async def stop(self) -> None:
        """End the actor: kindly, then not."""
        with suppress(TimeoutError, self._ray.exceptions.RayError):
            await asyncio.wait_for(asyncio.wrap_future(self._actor.stop.remote().future()), STOP_S)
        self._ray.kill(self._actor)
