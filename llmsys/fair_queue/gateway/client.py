"""One client's connection: requests parsed, answers written, and word given when the client leaves.

httptools parses; what is ours is the order of things: one request at a time, the next one of a keep-alive connection
after the answer, limits before memory is taken. Knows no tenant and no backend.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol, cast

import httptools

from llmsys.fair_queue.gateway.wire import (
    CONTINUE,
    LAST_CHUNK,
    Header,
    chunk,
    error_body,
    response_head,
    whole_response,
)

__all__ = ["ClientConnection", "ClientRequest", "Exchange", "Limits"]

MAX_HEAD_BYTES = 64 * 1024
MAX_AHEAD_BYTES = 256 * 1024
SLOW_READER_BYTES = 256 * 1024


class Limits:
    """What a connection may use: body bytes, and seconds in which a request must have arrived."""

    __slots__ = ("max_body", "request_s")

    def __init__(self, *, max_body: int, request_s: float = 60.0) -> None:
        self.max_body = max_body
        self.request_s = request_s


class ClientRequest:
    """A whole request: method and target as sent, headers in order with their names in lower case, body."""

    __slots__ = ("body", "headers", "method", "target")

    def __init__(self) -> None:
        self.method = b""
        self.target = b""
        self.headers: list[Header] = []
        self.body = b""

    def header(self, name: bytes) -> bytes | None:
        """The first value of a header; `name` in lower case."""
        for key, value in self.headers:
            if key == name:
                return value
        return None

    @property
    def path(self) -> bytes:
        """The target without its query."""
        return self.target.partition(b"?")[0]


class Exchange(Protocol):
    """Whoever answers a request: told when the client is gone, and when to stop and go on writing."""

    def client_left(self) -> None: ...

    def client_full(self) -> None: ...

    def client_drained(self) -> None: ...


Handler = Callable[["ClientConnection", ClientRequest], "Exchange | None"]


class ClientConnection(asyncio.Protocol):
    """Serves one connection; `handler` answers at once and returns None, or returns the exchange that will answer."""

    def __init__(self, handler: Handler, limits: Limits, connections: "set[ClientConnection]", now_s: float) -> None:
        self._handler = handler
        self._limits = limits
        self._connections = connections
        self._parser = httptools.HttpRequestParser(self)
        self._request = ClientRequest()
        self._body: list[bytes] = []
        self._size = 0
        self._in_body = False
        self._busy = False
        self._exchange: Exchange | None = None
        self._ahead = b""
        self._keep_alive = True
        self._chunked = False
        self._refused = False
        self.transport: asyncio.Transport | None = None
        self.since_s = now_s

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by class
        self.transport.set_write_buffer_limits(high=SLOW_READER_BYTES)
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._connections.discard(self)
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.client_left()

    def pause_writing(self) -> None:
        if self._exchange is not None:
            self._exchange.client_full()

    def resume_writing(self) -> None:
        if self._exchange is not None:
            self._exchange.client_drained()

    def data_received(self, data: bytes) -> None:
        if self._busy:
            self._keep_ahead(data)
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._keep_alive = False  # answered when its headers were complete
        except httptools.HttpParserError as error:
            self._refuse(400, f"malformed HTTP request: {error}")
        else:
            self._size += len(data)
            if not (self._in_body or self._busy) and self._size > MAX_HEAD_BYTES:
                self._refuse(431, f"headers over {MAX_HEAD_BYTES} bytes")

    def on_message_begin(self) -> None:
        """A request starts (httptools calls this and the next five)."""
        if self._busy:
            # Pipelined in the segment of the last one: not read; `connection: close` tells the client to send it again
            self._keep_alive = False
        else:
            self._request, self._body, self._size, self._in_body = ClientRequest(), [], 0, False

    def on_url(self, url: bytes) -> None:
        if not self._busy:
            self._request.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._busy:
            self._request.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self._busy:
            return
        self._in_body, self._size = True, 0
        self._request.method = self._parser.get_method()
        length = self._request.header(b"content-length")
        if self._parser.should_upgrade():
            self._refuse(501, "protocol upgrades are not served")
        elif length is not None and int(length) > self._limits.max_body:
            self._refuse(413, f"body over {self._limits.max_body} bytes")
        elif (self._request.header(b"expect") or b"").lower() == b"100-continue" and self.transport is not None:
            self.transport.write(CONTINUE)

    def on_body(self, data: bytes) -> None:
        if self._busy:
            return
        self._body.append(data)
        self._size += len(data)
        if self._size > self._limits.max_body:
            self._refuse(413, f"body over {self._limits.max_body} bytes")

    def on_message_complete(self) -> None:
        if self._busy:
            return
        self._busy = True
        self._keep_alive = self._parser.should_keep_alive()
        self._request.body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body = []
        exchange = self._handler(self, self._request)
        if self._busy:
            self._exchange = exchange

    def respond(
        self, status: int, body: bytes, *, kind: bytes = b"application/json", extra: list[Header] | None = None
    ) -> None:
        """Answer the request whole and be ready for the next."""
        if self.transport is not None:
            close = not self._keep_alive
            self.transport.write(whole_response(status, body, kind=kind, extra=extra or (), close=close))
        self._answered()

    def respond_error(
        self, status: int, message: str, kind: str, *, code: str | None = None, retry_after_s: int | None = None
    ) -> None:
        """Answer with an error in OpenAI's shape, `Retry-After` in whole seconds where there is one."""
        extra = [] if retry_after_s is None else [(b"retry-after", b"%d" % retry_after_s)]
        self.respond(status, error_body(message, kind, code), extra=extra)

    def start(self, status: int, headers: list[Header], length: int | None, data: bytes) -> None:
        """Start a passed-on answer with its first bytes; without a length it goes in chunks, or until the close."""
        self._chunked = length is None and self._parser.get_http_version() == "1.1"
        if length is not None:
            framing = b"content-length: %d\r\n" % length
        elif self._chunked:
            framing = b"transfer-encoding: chunked\r\n"
        else:
            framing, self._keep_alive = b"", False
        head = response_head(status, headers, framing, close=not self._keep_alive)
        if self.transport is not None:
            self.transport.write(head + self._framed(data))

    def send(self, data: bytes) -> None:
        """Send the next bytes of a started answer."""
        if self.transport is not None and data:
            self.transport.write(self._framed(data))

    def finish(self, data: bytes = b"") -> None:
        """Send the last bytes of a started answer and be ready for the next request."""
        last = self._framed(data) + (LAST_CHUNK if self._chunked else b"")
        if self.transport is not None and last:
            self.transport.write(last)
        self._answered()

    def close_after_answer(self) -> None:
        """Serve no further request on this connection; an idle one closes now."""
        self._keep_alive = False
        if not self._busy and self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        """Cut the connection: how a client learns that an answer will not be completed."""
        self._exchange = None
        if self.transport is not None:
            self.transport.abort()

    @property
    def address(self) -> str:
        """The client's IP address."""
        peer = self.transport.get_extra_info("peername") if self.transport is not None else None
        return str(peer[0]) if isinstance(peer, tuple) else ""

    def close_if_stalled(self, now_s: float, *, idle_s: float) -> None:
        """Close a connection whose request does not come: half-sent for `request_s`, or none for `idle_s`."""
        limit_s = self._limits.request_s if self._size else idle_s
        if not self._busy and now_s - self.since_s > limit_s and self.transport is not None:
            self.transport.close()

    def cut_off(self) -> None:
        """Abort an answer that is not complete."""
        if self._busy and self.transport is not None:
            self.transport.abort()

    def _framed(self, data: bytes) -> bytes:
        return chunk(data) if self._chunked and data else data

    def _refuse(self, status: int, message: str) -> None:
        """Answer what will not be read to its end, and close."""
        if not self._refused and self.transport is not None:
            self._refused = self._busy = True
            body = error_body(message, "invalid_request_error")
            self.transport.write(whole_response(status, body, kind=b"application/json", close=True))
            self.transport.close()

    def _keep_ahead(self, data: bytes) -> None:
        """Bytes of a next request, while this one is answered: kept up to a limit, so that a leave is still seen."""
        self._ahead += data
        if len(self._ahead) > MAX_AHEAD_BYTES and not self._refused:
            self.abort()

    def _answered(self) -> None:
        self._exchange = None
        self._busy = self._refused
        self._chunked = False
        self._size = 0
        self.since_s = asyncio.get_running_loop().time()
        if not self._keep_alive:
            if self.transport is not None:
                self.transport.close()
        elif self._ahead and not self._refused:
            data, self._ahead = self._ahead, b""
            self.data_received(data)
