"""`shell`: a script that runs in a sandbox, each command once it is whole; each call in a fresh process.

Pure for the reason that `python` is: nothing but its output leaves the sandbox.
"""

from collections.abc import Mapping
from typing import Any

from llmsys.tool_serve.effects import Effect
from llmsys.tool_serve.events import Text
from llmsys.tool_serve.results import ToolResult
from llmsys.tool_serve.tools import CallContext, Fed, Partial, PartialTool, Tool
from llmsys.tool_serve.workers import Worker, WorkerPool

__all__ = ["shell_tool"]

PARAMETERS: Mapping[str, Any] = {
    "type": "object",
    "properties": {"script": {"type": "string", "description": "A shell script"}},
    "required": ["script"],
    "additionalProperties": False,
}


def shell_tool(pool: WorkerPool) -> Tool:
    """The tool over a pool of SHELL workers."""
    return Tool(
        name="shell",
        description="Run a shell script in a sandbox without network or files; the result is its output.",
        parameters=PARAMETERS,
        make=lambda: _Shell(pool),
        effect=Effect.PURE,
        partial=Partial.parse("text:script"),
    )


class _Shell(PartialTool):
    """One script: its text goes to the shell as it comes, and the shell knows when a command is whole."""

    def __init__(self, pool: WorkerPool) -> None:
        self._pool = pool
        self._worker: Worker | None = None
        self._sent = 0

    async def begin(self, ctx: CallContext) -> None:
        self._worker = await self._pool.take()

    async def feed(self, event: Fed) -> None:
        if isinstance(event, Text):
            await self._send(event.delta)

    async def finish(self, args: dict[str, Any]) -> ToolResult:
        assert self._worker is not None
        await self._send(args["script"][self._sent :])
        self._worker.close_stdin()
        status = (await self._worker.answer()).get("exit")
        data = (("sandbox", self._pool.sandbox.name), ("exit", str(status)))
        return ToolResult(await self._worker.end(), f"exit {status}" if status else None, data)

    async def close(self) -> None:
        if self._worker is not None:
            await self._worker.end()

    async def _send(self, text: str) -> None:
        assert self._worker is not None
        self._sent += len(text)
        await self._worker.write(text.encode("utf-8", "replace"))
