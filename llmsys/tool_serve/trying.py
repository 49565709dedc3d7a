"""One tool by itself: what it declares, and one call of it. Knows no model."""

import asyncio
import codecs
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from llmsys.errors import UsageFault
from llmsys.tool_serve.catalog import Catalog, open_catalog
from llmsys.tool_serve.formats import OpenAIDeltas
from llmsys.tool_serve.runtime import Outcome, State, ToolRuntime
from llmsys.tool_serve.schema import Checked
from llmsys.tool_serve.tools import Tool
from llmsys.tool_serve.units import Units

__all__ = ["Tried", "call_once", "described"]

BLOCK = 1 << 16


@dataclass(frozen=True, slots=True)
class Tried:
    """What a call came to."""

    outcome: Outcome

    @property
    def failed(self) -> bool:
        """Whether it has no good result."""
        return self.outcome.state is not State.DONE

    def record(self) -> dict[str, Any]:
        """One line for stdout."""
        result = self.outcome.result
        return {
            "tool": self.outcome.name,
            "state": self.outcome.state.value,
            "content": result.content if result is not None else None,
            "error": result.error if result is not None else None,
            "facts": dict(result.data) if result is not None else {},
        }


def described(tool: Tool) -> dict[str, Any]:
    """A tool's declaration as plain values."""
    partial = f"{tool.partial.kind}:{'.'.join(map(str, tool.partial.path))}".rstrip(":") if tool.partial else ""
    return {
        "name": tool.name,
        "effect": tool.effect.value if tool.make is not None else "client",
        "partial": partial,
        "resource": tool.resource or "",
        "concurrency": tool.concurrency,
        "approval": tool.approval,
        "description": tool.description,
        "parameters": dict(tool.parameters),
    }


def call_once(name: str, arguments: str, specs: list[str], *, sandbox: str, stream: bool) -> Tried:
    """Call a tool with JSON arguments, given or from stdin; `stream`: while stdin is read. Raises UsageFault."""
    catalog = open_catalog(specs, sandbox=sandbox)
    if name not in {one.name for one in catalog.tools}:
        known = ", ".join(sorted(one.name for one in catalog.tools)) or "none: name some with --tools"
        raise UsageFault(f"no tool {name!r}; expected one of {known}")
    return asyncio.run(_call(catalog, name, arguments, stream=stream))


async def _call(catalog: Catalog, name: str, arguments: str, *, stream: bool) -> Tried:
    runtime = ToolRuntime(catalog.tools)
    schemas = {one.name: one.parameters for one in catalog.tools}
    deltas = OpenAIDeltas()
    checked = Checked(deltas, schemas)
    units = Units(checked, {one.name: one.partial for one in catalog.tools})
    try:
        session = runtime.open_turn("tools-call")
        opening = {"tool_calls": [{"index": 0, "id": "call_0", "function": {"name": name}}]}
        session.take(units.split(checked.check(deltas.take(opening))))
        async for piece in _pieces(arguments, stream=stream):
            delta = {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}
            session.take(units.split(checked.check(deltas.take(delta))))
        session.take(units.split(checked.check(deltas.close())))
        return Tried((await session.end_turn())[0])
    finally:
        await runtime.close()
        await catalog.close()


async def _pieces(arguments: str, *, stream: bool) -> AsyncIterator[str]:
    """The arguments, whole or as stdin brings them."""
    if arguments != "-":
        yield arguments
        return
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    whole = []
    while block := await asyncio.to_thread(os.read, sys.stdin.fileno(), BLOCK):
        whole.append(decoder.decode(block))
        if stream:
            yield whole.pop()
    if whole:
        yield "".join(whole)
