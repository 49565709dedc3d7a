"""Run a server until a signal: bind, say that it is ready, drain, close.

SIGTERM ends it with success once the questions under way are answered; Ctrl-C interrupts it. Knows nothing of requests.
"""

import asyncio
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass

import uvicorn

from llmsys.errors import Unavailable
from llmsys.sgd_decode.backends import Backend
from llmsys.sgd_decode.server.app import make_app
from llmsys.sgd_decode.server.room import Room
from llmsys.sgd_decode.server.service import ServerSettings, Service

__all__ = ["Address", "serve"]


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen; port 0 takes a free one."""

    host: str = "127.0.0.1"
    port: int = 8000


class _Server(uvicorn.Server):
    """uvicorn, which tells the service when it begins to stop."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop taking connections and wait for the questions under way."""
        self._service.draining = True
        await super().shutdown(sockets)


def serve(
    backend: Callable[[], Backend],
    settings: Callable[[Backend], ServerSettings],
    address: Address,
    *,
    ready: Callable[[dict[str, object]], None],
) -> None:
    """Serve until SIGTERM or Ctrl-C; `ready` gets the address once questions are taken.

    The address is bound before `backend` opens what may take long. Raises Unavailable for an address that is taken.
    """
    with _bound(address) as listening, Room(backend()) as room:
        chosen = settings(room.backend)
        service = Service(room, chosen)
        config = uvicorn.Config(
            make_app(service), log_config=None, lifespan="off", timeout_graceful_shutdown=max(1, round(chosen.drain_s))
        )
        asyncio.run(_serve(_Server(config, service), listening, lambda url: ready({"url": url, "model": chosen.model})))


async def _serve(server: _Server, listening: socket.socket, ready: Callable[[str], None]) -> None:
    host, port = listening.getsockname()[:2]
    # uvicorn raises the signal that ended it once more; a SIGTERM that was obeyed is no failure
    previous = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        ready(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")
        await serving
    finally:
        signal.signal(signal.SIGTERM, previous)


def _bound(address: Address) -> socket.socket:
    """A listening socket. Raises Unavailable if it cannot be had."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        return socket.create_server((address.host, address.port), family=family)
    except OSError as error:
        raise Unavailable(
            f"cannot listen at {address.host}:{address.port}: {error.strerror}", "choose another address"
        ) from error
