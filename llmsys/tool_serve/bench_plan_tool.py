"""A tool that carries out a plan line by line, each step with the results of earlier ones (ReWOO), for `bench`.

    $1 = search("lru cache")
    $2 = search("$1 eviction")

A step is a search of documents that takes a network's delay. Knows no workload.
"""

import asyncio
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmsys.tool_serve.builtin.search import SearchIndex
from llmsys.tool_serve.effects import Effect
from llmsys.tool_serve.events import Unit
from llmsys.tool_serve.faults import ToolArgumentError
from llmsys.tool_serve.results import ToolResult
from llmsys.tool_serve.steps import in_thread
from llmsys.tool_serve.tools import CallContext, Fed, Partial, PartialTool, Tool

__all__ = ["PLANNER", "plan_tool"]

PARAMETERS: Mapping[str, Any] = {
    "type": "object",
    "properties": {"plan": {"type": "string", "description": 'Lines such as $2 = search("$1 and more")'}},
    "required": ["plan"],
    "additionalProperties": False,
}
STEP = re.compile(r'\$(\d+) = search\("([^"]*)"\)')
TOPIC = re.compile(r"\w+")
DELAY_S = 0.25


def plan_tool(root: Path, delay_s: float = DELAY_S) -> Tool:
    """The tool over the documents below `root`; delay_s: of the network, per step."""
    index = SearchIndex(root)
    return Tool(
        name="plan",
        description="Carry out a plan, one step a line.",
        parameters=PARAMETERS,
        make=lambda: _Plan(index, delay_s),
        effect=Effect.PURE,
        partial=Partial.parse("lines:plan"),
    )


class _Plan(PartialTool):
    """One plan and what its steps have found."""

    def __init__(self, index: SearchIndex, delay_s: float) -> None:
        self._index, self._delay_s = index, delay_s
        self._found: dict[str, str] = {}
        self._read = 0

    async def begin(self, ctx: CallContext) -> None:
        await in_thread(self._index.build)

    async def feed(self, event: Fed) -> None:
        if isinstance(event, Unit):
            self._read += len(event.text)
            await self._step(event.text)

    async def finish(self, args: dict[str, Any]) -> ToolResult:
        for line in args["plan"][self._read :].splitlines():
            await self._step(line)
        return ToolResult("".join(f"${number}: {text}\n" for number, text in self._found.items()))

    async def _step(self, line: str) -> None:
        if not line.strip():
            return
        step = STEP.fullmatch(line.strip())
        if step is None:
            raise ToolArgumentError("$.plan", f'{line.strip()!r}; expected $N = search("...")')
        query = re.sub(r"\$(\d+)", lambda named: self._found.get(named[1], ""), step[2])
        await asyncio.sleep(self._delay_s)
        best = await in_thread(self._index.best, query, 1)
        self._found[step[1]] = " ".join(TOPIC.findall(best[0].text)[:3]) if best else "nothing"


PLANNER = plan_tool(Path(__file__).parents[1])
"""Over this package's own sources; nothing is read before a call."""
