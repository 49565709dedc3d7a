"""One request's way through the gateway: queued, sent to a backend, its answer passed on, its tokens counted.

The client may leave in any phase; a backend may fail in any. A request is sent again only if no backend can have served
it: it could not be reached, or said 502 or 503 before the client got a byte. Knows no policy: the dispatcher charges.
"""

import asyncio
import enum
from dataclasses import dataclass

from llmsys.fair_queue.gateway.backend import Backend
from llmsys.fair_queue.gateway.client import ClientConnection, ClientRequest
from llmsys.fair_queue.gateway.dispatch import Dispatcher
from llmsys.fair_queue.gateway.queued import Queued
from llmsys.fair_queue.gateway.sse import StreamMeter, Usage, usage_in
from llmsys.fair_queue.gateway.upstream import BackendConnection, Head
from llmsys.fair_queue.gateway.wire import error_body, request_head

__all__ = ["Exchange", "Outbound", "PassThrough"]

KEPT_BODY_BYTES = 8 << 20
BYTES_PER_TOKEN = 4
REFUSED_UNSERVED = (502, 503)
EVENT_STREAM = b"text/event-stream"


@dataclass(frozen=True, slots=True)
class Outbound:
    """What is sent upstream: the client's request with the body to send, and finished header lines to add."""

    request: ClientRequest
    body: bytes
    extra: bytes

    def to(self, backend: Backend) -> bytes:
        """The whole request as bytes for this backend."""
        request, address = self.request, backend.address
        length = len(self.body) if self.body or request.method != b"GET" else None
        target = address.prefix + request.target
        head = request_head(
            request.method, target, host=address.authority, headers=request.headers, length=length, extra=self.extra
        )
        return head + self.body


class Phase(enum.Enum):
    """Where an exchange stands."""

    QUEUED = 0
    CONNECTING = 1
    SENT = 2
    ANSWERING = 3
    ENDED = 4


class PassThrough:
    """An exchange that is not queued: sent to a backend at once and passed back as it comes."""

    def __init__(self, client: ClientConnection, outbound: Outbound) -> None:
        self._client = client
        self._outbound = outbound
        self._phase = Phase.QUEUED
        self._backend: Backend | None = None
        self._connection: BackendConnection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._moved = False

    def begin(self, backend: Backend) -> None:
        """Send the request to this backend."""
        self._backend = backend
        self._phase = Phase.CONNECTING
        connection = backend.pool.take(asyncio.get_running_loop().time())
        if connection is not None:
            self._send(connection)
        else:
            self._connecting = asyncio.get_running_loop().create_task(self._connect(backend))

    async def _connect(self, backend: Backend) -> None:
        try:
            connection = await backend.pool.connect()
        except (OSError, TimeoutError) as error:
            backend.down(str(error) or type(error).__name__)
            if self._phase is Phase.CONNECTING:
                self._not_served(f"backend {backend.address.url} cannot be reached")
            return
        if self._phase is Phase.CONNECTING:
            self._send(connection)
        else:
            backend.pool.give_back(connection)

    def _send(self, connection: BackendConnection) -> None:
        assert self._backend is not None
        self._phase = Phase.SENT
        self._connection = connection
        connection.send(self._outbound.to(self._backend), self)

    def received(self, head: Head | None, data: bytes, *, end: bool) -> None:
        """Bytes of the answer: see `Receiver`."""
        if end:
            self._connection = None
        if head is not None:
            if head.status in REFUSED_UNSERVED and self._retry():
                return
            self._phase = Phase.ANSWERING
            data = self._answer_starts(head, data, end=end)
        else:
            data = self._passed(data)
            if not end:
                self._client.send(data)
        if end:
            self._phase = Phase.ENDED
            self._answer_ends(b"" if head is not None else data)

    def lost(self, reason: str) -> None:
        """The backend's connection broke: the request may have been served, so it is not sent again."""
        self._connection = None
        if self._backend is not None:
            self._backend.suspect()
        phase, self._phase = self._phase, Phase.ENDED
        self._gave_up("backend")
        if phase is Phase.ANSWERING:
            self._break_off(reason)
        else:
            self._client.respond_error(502, f"the backend broke off: {reason}", "server_error", code="backend_lost")

    def client_left(self) -> None:
        """The client closed its connection: the backend's is cut, so that it stops working for nobody."""
        if self._phase is Phase.ENDED:
            return
        self._phase = Phase.ENDED
        if self._connection is not None:
            self._connection.abort()
            self._connection = None
        self._gave_up("client")

    def client_full(self) -> None:
        """The client reads more slowly than the backend writes."""
        if self._connection is not None:
            self._connection.pause()

    def client_drained(self) -> None:
        """The client has read on."""
        if self._connection is not None:
            self._connection.resume()

    def _not_served(self, why: str) -> None:
        if self._retry():
            return
        self._phase = Phase.ENDED
        self._gave_up("backend")
        self._client.respond_error(502, why, "server_error", code="backend_unreachable")

    def _retry(self) -> bool:
        """Send the request to another backend, once."""
        backend = None if self._moved else self._other()
        if backend is None:
            return False
        self._moved = True
        if self._connection is not None:
            self._connection.abort()
            self._connection = None
        self.begin(backend)
        return True

    def _other(self) -> Backend | None:
        """Another backend to try; None if there is none."""
        return None

    def _answer_starts(self, head: Head, data: bytes, *, end: bool) -> bytes:
        self._client.start(head.status, head.headers, len(data) if end else head.length, data)
        return data

    def _passed(self, data: bytes) -> bytes:
        return data

    def _answer_ends(self, data: bytes) -> None:
        self._client.finish(data)

    def _break_off(self, reason: str) -> None:
        self._client.abort()

    def _gave_up(self, reason: str) -> None:
        """The exchange ends without its whole answer."""


class Exchange(PassThrough):
    """A queued exchange: its tokens are charged as they pass.

    `strip` leaves out the usage chunk that the client did not ask for. `learn` is told the prompt's true tokens.
    """

    def __init__(
        self,
        client: ClientConnection,
        outbound: Outbound,
        queued: Queued,
        dispatcher: Dispatcher,
        *,
        strip: bool,
    ) -> None:
        super().__init__(client, outbound)
        self.queued = queued
        self.usage: Usage | None = None
        self._dispatcher = dispatcher
        self._strip = strip
        self._meter: StreamMeter | None = None
        self._kept: list[bytes] = []
        self._kept_bytes = 0
        self._status = 0

    def timed_out(self) -> None:
        """The request has left the queue unserved."""
        self._phase = Phase.ENDED
        self._client.respond_error(
            503, "the request waited too long for a place at a backend", "server_error", code="queue_timeout"
        )

    def _other(self) -> Backend | None:
        return self._dispatcher.move(self.queued)

    def _answer_starts(self, head: Head, data: bytes, *, end: bool) -> bytes:
        self._status = head.status
        if any(name.lower() == b"content-type" and EVENT_STREAM in value for name, value in head.headers):
            self._meter = StreamMeter(strip=self._strip)
            data = self._passed(data)
            if end:
                data += self._meter.end()
            self._client.start(head.status, head.headers, None, data)
        else:
            data = self._passed(data)
            self._client.start(head.status, head.headers, len(data) if end else head.length, data)
        self._dispatcher.first_token(self.queued)
        return data

    def _passed(self, data: bytes) -> bytes:
        meter = self._meter
        if meter is None:
            self._kept_bytes += len(data)
            if data and self._kept_bytes <= KEPT_BODY_BYTES:
                self._kept.append(data)
            return data
        before = meter.events
        data = meter.feed(data)
        if meter.events > before:
            self._dispatcher.token(self.queued, meter.events - before)
        return data

    def _answer_ends(self, data: bytes) -> None:
        if self._meter is not None:
            data += self._meter.end()
        self._client.finish(data)
        self.usage = self._final_usage()
        self._dispatcher.ended(self.queued, self.usage)

    def _final_usage(self) -> Usage | None:
        if self._status >= 400:
            return Usage(0, 0)  # the backend did no work for it
        if self._meter is not None:
            return self._meter.usage
        usage = usage_in(b"".join(self._kept)) if self._kept_bytes <= KEPT_BODY_BYTES else None
        if usage is None:
            self._dispatcher.token(self.queued, max(1, self._kept_bytes // BYTES_PER_TOKEN))
        return usage

    def _break_off(self, reason: str) -> None:
        if self._meter is None:
            self._client.abort()
            return
        error = error_body(f"the backend broke off: {reason}", "server_error", "backend_lost")
        self._client.close_after_answer()
        self._client.finish(self._meter.end() + b"data: " + error + b"\n\n")

    def _gave_up(self, reason: str) -> None:
        usage = self._meter.usage if self._meter is not None else None
        self._dispatcher.give_up(self.queued, reason, usage)
