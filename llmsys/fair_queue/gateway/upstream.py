"""Connections to one backend: a pool of them, each carrying one request at a time.

A request is written whole; the answer comes to a receiver, one call for each read from the socket. A connection that
was idle for long is not used again, because the backend may be closing it, and a request must never be sent twice.
Knows no tenant and nothing of what the bytes say.
"""

import asyncio
import ssl
from collections import deque
from dataclasses import dataclass
from typing import Protocol, cast
from urllib.parse import urlsplit

import httptools

from llmsys.errors import UsageFault
from llmsys.fair_queue.gateway.wire import Header

__all__ = ["BackendAddress", "BackendConnection", "BackendPool", "Head", "Receiver"]

IDLE_LIMIT_S = 2.0
CONNECT_TIMEOUT_S = 5.0
MAX_IDLE = 512


@dataclass(frozen=True, slots=True)
class BackendAddress:
    """Where a backend listens; `prefix` is put before every path."""

    host: str
    port: int
    tls: bool
    prefix: bytes
    url: str

    @classmethod
    def parse(cls, url: str) -> "BackendAddress":
        """Read http://HOST[:PORT][/PREFIX]. Raises UsageFault for anything else."""
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError:
            port = -1
        if parts.scheme not in ("http", "https") or not parts.hostname or port == -1 or parts.query or parts.username:
            raise UsageFault(f"backend {url!r} is not http://HOST[:PORT], as in http://127.0.0.1:8000")
        tls = parts.scheme == "https"
        prefix = parts.path.rstrip("/").removesuffix("/v1")
        return cls(parts.hostname, port or (443 if tls else 80), tls, prefix.encode(), url)

    @property
    def authority(self) -> bytes:
        """The value of the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}".encode()


@dataclass(slots=True)
class Head:
    """An answer's head; `length` is its body's bytes if it says so."""

    status: int
    headers: list[Header]
    length: int | None


class Receiver(Protocol):
    """Takes an answer as it comes."""

    def received(self, head: Head | None, data: bytes, *, end: bool) -> None:
        """One read from the socket: the head if it came with it, body bytes, and whether the answer is complete."""

    def lost(self, reason: str) -> None:
        """The connection broke before the answer was complete."""


class BackendConnection(asyncio.Protocol):
    """One connection to a backend."""

    def __init__(self, pool: "BackendPool") -> None:
        self._pool = pool
        self._transport: asyncio.Transport | None = None
        self._receiver: Receiver | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._headers: list[Header] = []
        self._head: Head | None = None
        self._body: list[bytes] = []
        self._complete = False
        self._until_close = False
        self._keep_alive = True
        self.idle_since_s = 0.0

    @property
    def usable(self) -> bool:
        """Whether a request may be sent."""
        return self._transport is not None and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by class

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._pool.forget(self)
        receiver, self._receiver = self._receiver, None
        if receiver is None:
            return
        if self._until_close and exc is None:
            receiver.received(None, b"", end=True)
        else:
            receiver.lost(str(exc) if exc else "the backend closed the connection")

    def send(self, request: bytes, receiver: Receiver) -> None:
        """Write a request; its answer goes to `receiver`."""
        assert self._transport is not None
        self._receiver = receiver
        self._parser = httptools.HttpResponseParser(self)
        self._complete = self._until_close = False
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        receiver, parser = self._receiver, self._parser
        if receiver is None or parser is None:
            self.abort()
            return
        try:
            parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._receiver = None
            self.abort()
            receiver.lost(f"not HTTP: {error}")
            return
        head, self._head = self._head, None
        body = self._body
        joined = b"" if not body else body[0] if len(body) == 1 else b"".join(body)
        body.clear()
        if self._complete:
            self._receiver = None
            if self._keep_alive:
                self._pool.give_back(self)
            else:
                self.abort()
            receiver.received(head, joined, end=True)
        elif head is not None or joined:
            receiver.received(head, joined, end=False)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        headers, self._headers = self._headers, []
        status = self._parser.get_status_code()
        if status < 200:
            return
        length, chunked = None, False
        for name, value in headers:
            lowered = name.lower()
            if lowered == b"content-length":
                length = int(value)
            elif lowered == b"transfer-encoding":
                chunked = True
        self._until_close = length is None and not chunked
        self._head = Head(status, headers, None if chunked else length)

    def on_body(self, data: bytes) -> None:
        self._body.append(data)

    def on_message_complete(self) -> None:
        assert self._parser is not None
        self._complete = self._parser.get_status_code() >= 200
        self._keep_alive = self._parser.should_keep_alive()  # known here only: the parser forgets with the message

    def pause(self) -> None:
        """Stop reading: whoever takes the bytes is slower than the backend."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self._transport is not None:
            self._transport.resume_reading()

    def abort(self) -> None:
        """Cut the connection without a word to the receiver: how a backend learns that nobody waits any more."""
        self._receiver = None
        if self._transport is not None:
            self._transport.abort()


class BackendPool:
    """Open connections to one backend, the most recently used first."""

    def __init__(self, address: BackendAddress) -> None:
        self.address = address
        self._idle: deque[BackendConnection] = deque()
        self._tls = ssl.create_default_context() if address.tls else None

    def take(self, now_s: float) -> BackendConnection | None:
        """A connection that can be used at once, or None: then `connect`."""
        while self._idle:
            connection = self._idle.pop()
            if connection.usable and now_s - connection.idle_since_s <= IDLE_LIMIT_S:
                return connection
            connection.abort()
        return None

    async def connect(self) -> BackendConnection:
        """Open a connection. Raises OSError or TimeoutError."""
        loop = asyncio.get_running_loop()
        opening = loop.create_connection(
            lambda: BackendConnection(self), self.address.host, self.address.port, ssl=self._tls
        )
        _, connection = await asyncio.wait_for(opening, CONNECT_TIMEOUT_S)
        return connection

    def give_back(self, connection: BackendConnection) -> None:
        """Keep a connection whose answer is complete."""
        if len(self._idle) >= MAX_IDLE:
            connection.abort()
            return
        connection.idle_since_s = asyncio.get_running_loop().time()
        self._idle.append(connection)

    def forget(self, connection: BackendConnection) -> None:
        """Drop a connection that closed while it was idle."""
        if connection in self._idle:
            self._idle.remove(connection)

    def close(self) -> None:
        """Close every idle connection."""
        while self._idle:
            self._idle.pop().abort()
