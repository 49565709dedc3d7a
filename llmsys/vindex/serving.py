"""Serve an index over HTTP until a signal ends it: address, sockets, and uvicorn in front of the application."""

import ipaddress
import socket
from collections.abc import Callable

from llmsys.errors import Unavailable, UsageFault
from llmsys.vindex.access_tokens import Tokens
from llmsys.vindex.index import Index

__all__ = ["listening", "serve"]


def listening(address: str, tokens: Tokens) -> socket.socket:
    """A socket that listens on HOST:PORT; port 0 takes a free one.

    Raises UsageFault for another form, and for an address that others reach where no tokens protect it; Unavailable
    where it cannot be had.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise UsageFault(f"--listen {address!r}; expected HOST:PORT")
    if not tokens and not _is_loopback(host):
        raise UsageFault(f"--listen {address}: others reach this address; expected --tokens, or a loopback address")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, int(port)), family=family)
    except OSError as error:
        raise Unavailable(f"{address}: {error.strerror or error}", "choose another address") from error


def serve(index: Index, sock: socket.socket, tokens: Tokens, on_ready: Callable[[str], None]) -> None:
    """Answer requests until SIGINT or SIGTERM; `on_ready` gets the address first."""
    import uvicorn

    from llmsys.vindex.server import make_app
    from llmsys.vindex.service import Service

    host, port = sock.getsockname()[:2]
    on_ready(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")
    config = uvicorn.Config(make_app(Service(index), tokens), log_level="warning", lifespan="off")
    uvicorn.Server(config).run(sockets=[sock])


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
