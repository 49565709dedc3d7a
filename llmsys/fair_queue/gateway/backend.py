"""One backend as the gateway sees it: its connections, its window, whether it is up, and who looks after that.

A backend that cannot be reached, or whose /health says 502 or 503, is down until a probe succeeds; probes back off.
"""

import asyncio
from collections.abc import Callable

from llmsys.fair_queue.gateway.upstream import BackendAddress, BackendPool, Head
from llmsys.fair_queue.gateway.window import Window, WindowSpec, waiting_in
from llmsys.fair_queue.gateway.wire import request_head

__all__ = ["Backend", "fetch"]

PROBE_S = 1.0
SLOWEST_PROBE_S = 10.0
PROBE_TIMEOUT_S = 5.0
MAX_ANSWER_BYTES = 8 << 20


class _Answer:
    """Collects a whole small answer."""

    def __init__(self) -> None:
        self.status = 0
        self.data = b""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def received(self, head: Head | None, data: bytes, *, end: bool) -> None:
        if head is not None:
            self.status = head.status
        self.data += data
        if len(self.data) > MAX_ANSWER_BYTES:
            self.lost(f"an answer over {MAX_ANSWER_BYTES} bytes")
        elif end and not self.done.done():
            self.done.set_result(None)

    def lost(self, reason: str) -> None:
        if not self.done.done():
            self.done.set_exception(ConnectionError(reason))


async def fetch(pool: BackendPool, path: bytes, extra: bytes = b"") -> tuple[int, bytes]:
    """GET a small document on a new connection: status and body. Raises OSError or TimeoutError."""
    connection = await pool.connect()
    answer = _Answer()
    target = pool.address.prefix + path
    head = request_head(b"GET", target, host=pool.address.authority, headers=(), length=None, extra=extra)
    try:
        connection.send(head, answer)
        await asyncio.wait_for(answer.done, PROBE_TIMEOUT_S)
    except (OSError, TimeoutError, asyncio.CancelledError):
        connection.abort()
        raise
    # with its answer complete the connection went to the pool, and may carry a request by now
    return answer.status, answer.data


class Backend:
    """One server behind the gateway. `on_change` is called when it comes up or its window may have grown."""

    def __init__(self, url: str, window: WindowSpec, on_change: Callable[[], None], extra: bytes = b"") -> None:
        self.address = BackendAddress.parse(url)
        self.pool = BackendPool(self.address)
        self.window = Window(window)
        self.up = True
        self.reason = ""
        self._auto = window.auto
        self._on_change = on_change
        self._extra = extra
        self._wake = asyncio.Event()

    def down(self, reason: str) -> None:
        """Send nothing here until a probe succeeds."""
        self.up, self.reason = False, reason
        self.pool.close()
        self._wake.set()

    def suspect(self) -> None:
        """Probe soon: a connection broke."""
        self._wake.set()

    async def watch(self) -> None:
        """Probe for ever: a backend that is down until it is up, one that is up for its queue."""
        delay_s = PROBE_S
        while True:
            try:
                await asyncio.wait_for(self._wake.wait(), delay_s)
                self._wake.clear()
                delay_s = PROBE_S / 4
                continue
            except TimeoutError:
                pass
            delay_s = PROBE_S if await self._probe() else min(2 * delay_s, SLOWEST_PROBE_S)

    async def _probe(self) -> bool:
        try:
            if not self.up or not self._auto:
                status, _ = await fetch(self.pool, b"/health", self._extra)
                if status in (502, 503):
                    raise ConnectionError(f"/health answered {status}")
            if self._auto:
                status, metrics = await fetch(self.pool, b"/metrics", self._extra)
                self.window.adapt(waiting_in(metrics) if status == 200 else None)
        except (OSError, TimeoutError) as error:
            if self.up:
                self.down(str(error) or type(error).__name__)
            self._wake.clear()
            return False
        self.up, self.reason = True, ""
        self._on_change()
        return True
