"""Peers of `bench`: other runtimes over the same tools and the same pieces of text at the same pace.

`eager-tools` (eager-tools-core, eager-tools-openai 0.3) starts a call once the next one begins, or the message ends.
Knows no workload.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

from llmsys.gpu import require
from llmsys.tool_serve.effects import Effect
from llmsys.tool_serve.results import ToolResult
from llmsys.tool_serve.tools import CallContext, Tool

__all__ = ["EAGER_TOOLS", "PacedCall", "eager_tools_seconds", "has_eager_tools"]

EAGER_TOOLS = "eager-tools"


@dataclass(frozen=True, slots=True)
class PacedCall:
    """A call as structured deltas: the parts of its arguments, one per piece of the text that it was made of."""

    name: str
    parts: tuple[str, ...]


def has_eager_tools() -> bool:
    """Whether the peer is installed."""
    return find_spec("eager_tools_openai") is not None


async def eager_tools_seconds(tools: Sequence[Tool], calls: Sequence[PacedCall], *, rate: float) -> tuple[float, int]:
    """Seconds from the first piece to the last result, and how many calls had one that is no error.

    Raises Unavailable if the peer is not installed.
    """
    kit = require("eager_tools_openai")
    wrapped = {one.name: _Wrapped(one) for one in tools}
    started = time.perf_counter()
    stream = kit.OpenAIEagerStream(_chunks(calls, rate), tools=wrapped)
    reading = asyncio.create_task(_drain(stream.events()))
    good = 0
    async for _, found in stream.results():
        good += isinstance(found, ToolResult) and found.error is None
    await reading
    return time.perf_counter() - started, good


class _Wrapped:
    """One of our tools as the peer wants them."""

    def __init__(self, tool: Tool) -> None:
        self.name = tool.name
        self.idempotent = tool.effect in (Effect.PURE, Effect.IDEMPOTENT)
        self._tool = tool

    async def __call__(self, arguments: Mapping[str, Any]) -> ToolResult:
        from llmsys.tool_serve.steps import run_step

        assert self._tool.make is not None
        call, quiet = self._tool.make(), _ignore
        try:
            await run_step(call.begin, CallContext("bench", "bench", "peer", self.name), report=quiet)
            return ToolResult.of(await run_step(call.finish, dict(arguments), report=quiet))
        finally:
            await run_step(call.close, report=quiet)


def _ignore(held_s: float) -> None:
    """The peer has no watch over the loop."""


async def _drain(events: AsyncIterator[object]) -> None:
    async for _ in events:
        pass


async def _chunks(calls: Sequence[PacedCall], rate: float) -> AsyncIterator[SimpleNamespace]:
    """The stream that the peer reads: chunks as the OpenAI client gives them."""
    first = True
    for index, call in enumerate(calls):
        for at, part in enumerate(call.parts):
            if not first:
                await asyncio.sleep(1 / rate)
            first = False
            function = SimpleNamespace(name=call.name if at == 0 else None, arguments=part)
            delta = SimpleNamespace(index=index, id=f"call_{index}" if at == 0 else None, function=function)
            yield _chunk([delta], None)
    yield _chunk([], "tool_calls")


def _chunk(deltas: list[SimpleNamespace], finish: str | None) -> SimpleNamespace:
    return SimpleNamespace(choices=[SimpleNamespace(delta=SimpleNamespace(tool_calls=deltas), finish_reason=finish)])
