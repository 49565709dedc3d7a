"""Workers that are started before they are needed; each is handed out once.

Knows no call. A worker that dies while it waits is replaced when its turn comes.
"""

import asyncio
from collections import deque

from llmsys.tool_serve.results import OUTPUT_BYTES
from llmsys.tool_serve.sandbox import Sandbox
from llmsys.tool_serve.workers.worker import Worker

__all__ = ["WorkerPool"]


class WorkerPool:
    """`size` workers of one program, warm once `take` or `warm_up` was first called."""

    def __init__(self, sandbox: Sandbox, program: str, *, size: int = 2, output_bytes: int = OUTPUT_BYTES) -> None:
        self.sandbox = sandbox
        self._program = program
        self._size = size
        self._output_bytes = output_bytes
        self._starting: deque[asyncio.Task[Worker]] = deque()
        self._closed = False

    def warm_up(self) -> None:
        """Start workers until `size` are ready or on their way."""
        while not self._closed and len(self._starting) < self._size:
            start = Worker.start(self.sandbox, self._program, output_bytes=self._output_bytes)
            self._starting.append(asyncio.create_task(start))

    async def take(self) -> Worker:
        """A worker that nobody had before; the caller ends it. Raises ToolCrashed if it cannot be started."""
        self.warm_up()
        started = self._starting.popleft() if self._starting else None
        if started is None:
            return await Worker.start(self.sandbox, self._program, output_bytes=self._output_bytes)
        self.warm_up()
        try:
            return await asyncio.shield(started)
        except asyncio.CancelledError:
            self._starting.appendleft(started)  # it was not handed out
            raise

    async def close(self) -> None:
        """End the workers that nobody took."""
        self._closed = True
        for started in await asyncio.gather(*self._starting, return_exceptions=True):
            if isinstance(started, Worker):
                await started.end()
        self._starting.clear()
