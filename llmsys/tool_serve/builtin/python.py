"""`python`: a program that runs in a sandbox, its statements as they are written; each call in a fresh process.

Pure, since nothing but its output leaves the sandbox. Knows no way to split programs: statements come as units.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

from llmsys.tool_serve.effects import Effect
from llmsys.tool_serve.events import Unit
from llmsys.tool_serve.faults import ToolCrashed
from llmsys.tool_serve.results import ToolResult
from llmsys.tool_serve.tools import CallContext, Fed, Partial, PartialTool, Tool
from llmsys.tool_serve.workers import Worker, WorkerPool

__all__ = ["python_tool"]

PARAMETERS: Mapping[str, Any] = {
    "type": "object",
    "properties": {"code": {"type": "string", "description": "Python source; what it prints is the result"}},
    "required": ["code"],
    "additionalProperties": False,
}
KILLED = 9


def python_tool(pool: WorkerPool) -> Tool:
    """The tool over a pool of PYTHON workers."""
    return Tool(
        name="python",
        description="Run a Python program in a sandbox; the result is what it prints, and its last expression's value.",
        parameters=PARAMETERS,
        make=lambda: _Python(pool),
        effect=Effect.PURE,
        partial=Partial.parse("statements:code"),
    )


class _Python(PartialTool):
    """One program. A worker that something killed is replaced once, and the statements run again."""

    def __init__(self, pool: WorkerPool) -> None:
        self._pool = pool
        self._worker: Worker | None = None
        self._ran: list[str] = []
        self._alive = True
        self._retried = False

    async def begin(self, ctx: CallContext) -> None:
        self._worker = await self._pool.take()

    async def feed(self, event: Fed) -> None:
        if isinstance(event, Unit):
            await self._run(event.text)

    async def finish(self, args: dict[str, Any]) -> ToolResult:
        assert self._worker is not None
        if rest := args["code"][sum(map(len, self._ran)) :]:
            await self._run(rest)
        end = await self._worker.ask({"end": True})
        output = await self._worker.end()
        if end.get("value") is not None:
            output += f"{end['value']}\n"
        status = end.get("exit")
        data = (("sandbox", self._pool.sandbox.name), ("exit", str(status or 0)))
        return ToolResult(output, f"exit {status}" if status else None, data)

    async def close(self) -> None:
        if self._worker is not None:
            await self._worker.end()

    async def _run(self, source: str) -> None:
        self._ran.append(source)
        if not self._alive:
            return
        try:
            await self._statements([source])
        except ToolCrashed as crash:
            if crash.signal != KILLED or self._retried:
                raise
            self._retried = True
            self._worker = await self._pool.take()
            await self._statements(self._ran)

    async def _statements(self, sources: list[str]) -> None:
        assert self._worker is not None
        for source in sources:
            answer = await self._worker.ask({"run": source})
            self._alive = bool(answer.get("ok"))
            if not self._alive:
                return
            await asyncio.sleep(0)
