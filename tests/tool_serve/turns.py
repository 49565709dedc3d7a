"""Turns for tests: calls as events, tools that note what happened to them, and what a run left behind."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from llmsys.tool_serve.events import CallOpen, Event, Sealed, Unit, Value
from llmsys.tool_serve.results import ToolResult
from llmsys.tool_serve.tools import CallContext, Fed, PartialTool, Tool, tool

SCHEMA = {"type": "object", "properties": {"code": {"type": "string"}}}


@dataclass
class World:
    """What the tools of a test did, in order: (what, call, detail)."""

    log: list[tuple[str, str, str]] = field(default_factory=list)

    def count(self, what: str, call: str) -> int:
        return sum((what, call) == entry[:2] for entry in self.log)


def noting_tool(world: World, name: str, effect: str, **declared: Any) -> Tool:
    """A tool that works `s` seconds for each unit "s" and once in `finish`, and notes its steps."""

    class Noting(PartialTool):
        parameters = SCHEMA

        async def begin(self, ctx: CallContext) -> None:
            self.call = f"{ctx.request}/{ctx.call}"
            world.log.append(("begin", self.call, ""))

        async def feed(self, event: Fed) -> None:
            if isinstance(event, Unit):
                await asyncio.sleep(float(event.text))
                world.log.append(("feed", self.call, event.text))

        async def finish(self, args: dict[str, Any]) -> ToolResult:
            world.log.append(("finish", self.call, ""))
            await asyncio.sleep(args.get("wait", 0.0))
            if args.get("fail"):
                raise RuntimeError(str(args["fail"]))
            return ToolResult(f"{name} {sorted(args.items())}")

        async def commit(self) -> None:
            await asyncio.sleep(0.25)
            world.log.append(("commit", self.call, ""))

        async def rollback(self, reason: str) -> None:
            await asyncio.sleep(0.25)
            world.log.append(("rollback", self.call, reason))

        async def close(self) -> None:
            world.log.append(("close", self.call, ""))

    return tool(name=name, effect=effect, partial="statements:code", **declared)(Noting)


def opened(call: int, name: str) -> Event:
    return CallOpen(call, f"c{call}", name, 0)


def unit(call: int, seconds: float) -> Event:
    return Unit(call, ("code",), "statement", str(seconds), 0)


def value(call: int, name: str, what: object) -> Event:
    return Value(call, (name,), what, 0)


def sealed(call: int, **args: Any) -> Event:
    return Sealed(call, args, 0)
