"""The bench's clients on kept connections: closed loops that ask again at once, or at a pace that no answer slows.

Knows no proxy: it counts what came and how long the first byte took. A paced question that has to wait for the answer
before it counts from when it was due.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import httptools
import uvloop

__all__ = ["Asked", "Load", "ask_all"]

TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Load:
    """`clients` connections that ask `requests` times in all, whole answers or streams.

    rate_s: questions a second of all together; 0 is a closed loop.
    """

    name: str
    clients: int
    requests: int
    stream: bool
    rate_s: float = 0.0


@dataclass(slots=True)
class Asked:
    """What came back: seconds from asking to the first byte, body bytes, answers that were no 200, wall seconds."""

    first_byte_s: list[float] = field(default_factory=list)
    body_bytes: int = 0
    failed: int = 0
    wall_s: float = 0.0


class _Asking(asyncio.Protocol):
    """One connection. due_s: when its first question is due, by `perf_counter`; every_s: seconds from one that is due
    to the next, 0 to ask as soon as the answer is there."""

    def __init__(
        self,
        request: bytes,
        asked: Asked,
        more: Callable[[], bool],
        done: Callable[[], None],
        *,
        due_s: float,
        every_s: float,
    ) -> None:
        self._request = request
        self._due_s = due_s
        self._every_s = every_s
        self._asked = asked
        self._more = more
        self._done = done
        self._parser = httptools.HttpResponseParser(self)
        self._start_s = 0.0
        self._first = True
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # uvloop's is no asyncio.Transport by class
        self._await_turn()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._done()

    def _await_turn(self) -> None:
        assert self._transport is not None
        if not self._more():
            self._transport.close()
            return
        due_s, now_s = self._due_s, time.perf_counter()
        self._due_s += self._every_s
        if due_s > now_s:
            asyncio.get_running_loop().call_later(due_s - now_s, self._ask)
        else:
            self._ask(due_s if self._every_s else now_s)

    def _ask(self, since_s: float | None = None) -> None:
        """Ask; the wait counts from `since_s`, or from now."""
        if self._transport is None:
            return
        self._parser = httptools.HttpResponseParser(self)
        self._first = True
        self._start_s = time.perf_counter() if since_s is None else since_s
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if self._first:
            self._first = False
            self._asked.first_byte_s.append(time.perf_counter() - self._start_s)
        self._parser.feed_data(data)

    def on_body(self, data: bytes) -> None:
        self._asked.body_bytes += len(data)

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() != 200:
            self._asked.failed += 1
        self._await_turn()


def ask_all(port: int, load: Load, *, key: str = "") -> Asked:
    """Put one load on a port of this machine. Raises TimeoutError, or OSError if nobody listens."""
    body = b'{"model":"m","messages":[{"role":"user","content":"How many tokens are there?"}],"max_tokens":64'
    body += b',"stream":true}' if load.stream else b"}"
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n"
    head += f"authorization: Bearer {key}\r\n" if key else ""
    request = f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
    asked = Asked()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        left, open_ones, ended = load.requests, load.clients, asyncio.Event()

        def more() -> bool:
            nonlocal left
            left -= 1
            return left >= 0

        def done() -> None:
            nonlocal open_ones
            open_ones -= 1
            if not open_ones:
                ended.set()

        start_s = time.perf_counter()
        for client in range(load.clients):
            due_s, every_s = (client / load.rate_s, load.clients / load.rate_s) if load.rate_s else (0.0, 0.0)
            protocol = partial(_Asking, request, asked, more, done, due_s=start_s + due_s, every_s=every_s)
            await loop.create_connection(protocol, "127.0.0.1", port)
        await asyncio.wait_for(ended.wait(), TIMEOUT_S)
        asked.wall_s = time.perf_counter() - start_s

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
    return asked
