"""Run a server until a signal: bind first, load the model, say that it is ready, drain, close.

SIGTERM ends it with success once the requests under way are answered; Ctrl-C interrupts it. Knows nothing of requests.
"""

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from secrets import token_hex

import uvicorn

from llmsys.errors import Unavailable, UsageFault
from llmsys.gpu import set_threads
from llmsys.serve_lora.server.app import make_app
from llmsys.serve_lora.server.backend import Backend, load, opened
from llmsys.serve_lora.server.service import Service
from llmsys.serve_lora.server.settings import Address, ServerSettings

__all__ = ["serve"]

BACKLOG = 1024


class _Server(uvicorn.Server):
    """uvicorn, which tells the service when it begins to stop."""

    def __init__(self, config: uvicorn.Config, on_stop: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_stop = on_stop

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop taking connections and wait for the requests under way."""
        self._on_stop()
        await super().shutdown(sockets)


def serve(settings: ServerSettings, *, threads: int = 0, ready: Callable[[dict[str, object]], None]) -> None:
    """Serve until SIGTERM or Ctrl-C on so many CPU threads; `ready` gets the address once requests are taken.

    Raises Unavailable for an address that is taken, and what loading the model raises.
    """
    set_threads(threads)
    previous = signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn's own handler stands before this one
    try:
        with _bound(settings.address) as (listening, url):
            asyncio.run(_serve(settings, listening, lambda facts: ready({"url": url, **facts})))
    finally:
        signal.signal(signal.SIGTERM, previous)


async def _serve(
    settings: ServerSettings, listening: socket.socket, ready: Callable[[dict[str, object]], None]
) -> None:
    service = Service(settings)

    def stopping() -> None:
        service.draining = True

    config = uvicorn.Config(
        make_app(service),
        log_config=None,
        access_log=False,
        lifespan="off",
        backlog=BACKLOG,
        timeout_graceful_shutdown=max(round(settings.drain_s), 1),
    )
    server = _Server(config, stopping)
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        async with _backend(settings) as backend:
            for name in settings.pins:
                await _pin(backend, name)
            service.open(backend)
            if not serving.done():
                ready({"model": backend.names[0], "adapters": len(backend.registry.names())})
            await serving
    finally:
        server.should_exit = True
        service.close()
        await serving


@asynccontextmanager
async def _backend(settings: ServerSettings) -> AsyncIterator[Backend]:
    """What generates the tokens: one engine in this process, or a fleet of replicas."""
    if settings.fleet is None:
        loaded = await asyncio.to_thread(load, settings)
        async with opened(loaded, settings) as backend:
            yield backend
        return
    from llmsys.serve_lora.fleet.backend import fleet_of, launcher_of, opened_fleet
    from llmsys.serve_lora.fleet.spec import ReplicaSpec

    spec = ReplicaSpec.of(settings, threads=settings.fleet.threads, secret=token_hex(16))
    launcher = launcher_of(settings.fleet, spec)
    async with (
        fleet_of(settings, settings.fleet, launcher) as (fleet, alike),
        opened_fleet(settings, fleet, alike) as backend,
    ):
        yield backend


async def _pin(backend: Backend, name: str) -> None:
    """Pin an adapter at the start. Raises UsageFault for one that is not there, AdapterError for one that is broken."""
    try:
        await backend.registry.pin(name, hold=True)
    except KeyError as error:
        known = ", ".join(backend.registry.names()) or "none"
        raise UsageFault(f"--pin {name}: no such adapter; adapters: {known}") from error


@contextmanager
def _bound(address: Address) -> Iterator[tuple[socket.socket, str]]:
    """A listening socket and its URL. Raises Unavailable if it cannot be had."""
    place: str | tuple[str, int]
    if address.uds is not None:
        family, place, url = socket.AF_UNIX, str(address.uds), f"unix:{address.uds}"
    else:
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        place, url = (address.host, address.port), ""
    listening = socket.socket(family)
    try:
        if address.uds is None:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(place)
        listening.listen(BACKLOG)
        host = f"[{address.host}]" if family == socket.AF_INET6 else address.host
        yield listening, url or f"http://{host}:{listening.getsockname()[1]}"
    except OSError as error:
        shown = address.uds or f"{address.host}:{address.port}"
        raise Unavailable(f"cannot listen at {shown}: {error.strerror}", "choose another address") from error
    finally:
        listening.close()
        if address.uds is not None:
            address.uds.unlink(missing_ok=True)
