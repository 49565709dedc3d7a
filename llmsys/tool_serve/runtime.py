"""The door to tools that run while their calls are written: a runtime for many requests, a session for each turn.

Text or events go in as the model writes them; at the end of the turn the results come back in the order of the calls.
Runs on one event loop, that of its caller. Knows no backend and no format of messages.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmsys.tool_serve.call import State, Work
from llmsys.tool_serve.driver import Approve, Surroundings
from llmsys.tool_serve.effects import Policy, Speculate
from llmsys.tool_serve.events import Parser
from llmsys.tool_serve.faults import ToolDeclarationError
from llmsys.tool_serve.journal import Journal
from llmsys.tool_serve.records import CallEvent
from llmsys.tool_serve.recovery import Recovered, recover
from llmsys.tool_serve.results import OUTPUT_BYTES
from llmsys.tool_serve.slots import Slots
from llmsys.tool_serve.tools import Tool
from llmsys.tool_serve.turn import Outcome, TurnSession, TurnSettings

__all__ = ["Limits", "Outcome", "State", "ToolRuntime", "TurnSession", "Work"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a runtime. `tenant_calls` 0: no bound per tenant; `idle_timeout_s`: between two parts of one call."""

    max_calls: int = 64
    max_waiting: int = 1024
    tenant_calls: int = 0
    tool_timeout_s: float = 30.0
    idle_timeout_s: float = 120.0
    output_bytes: int = OUTPUT_BYTES


class ToolRuntime:
    """Tools, their limits, and the calls of all requests that use them."""

    def __init__(
        self,
        tools: Iterable[Tool],
        limits: Limits | None = None,
        *,
        policy: Policy = Policy.PARTIAL,
        speculate: Speculate = Speculate.DECLARED,
        on_invalid: str = "stop",
        journal: Path | None = None,
        on_event: Callable[[CallEvent], None] = lambda _: None,
        approve: Approve | None = None,
    ) -> None:
        """journal: a directory for what staged calls have begun. Raises ToolDeclarationError for names given twice."""
        if on_invalid not in ("stop", "finish"):
            raise ValueError(f"on_invalid is {on_invalid!r}; expected 'stop' or 'finish'")
        self.limits = limits or Limits()
        self.tools: dict[str, Tool] = {}
        for one in tools:
            if one.name in self.tools:
                raise ToolDeclarationError(f"two tools are named {one.name!r}; expected one")
            self.tools[one.name] = replace(one, timeout_s=one.timeout_s or self.limits.tool_timeout_s)
        self._journal_directory = journal
        self._journal = Journal(journal) if journal is not None else None
        slots = Slots(self.limits.max_calls, self.limits.max_waiting, self.limits.tenant_calls)
        shared = Surroundings(slots, self._journal, approve, self.limits.output_bytes, self.now_s)
        self._settings = TurnSettings(
            policy, speculate, stop_on_invalid=on_invalid == "stop", idle_s=self.limits.idle_timeout_s, shared=shared
        )
        self._emit = on_event
        self._started_s: float | None = None
        self._sessions: set[TurnSession] = set()

    def now_s(self) -> float:
        """Seconds of the loop's clock since the first call of this."""
        time_s = asyncio.get_running_loop().time()
        if self._started_s is None:
            self._started_s = time_s
        return time_s - self._started_s

    def with_client(self, client: Iterable[Tool]) -> dict[str, Tool]:
        """The tools of a request that brings some of its own, which are announced and not run; ours come first."""
        return {one.name: one for one in client} | self.tools

    async def recover(self) -> list[Recovered]:
        """Roll back what killed processes left in the journal's directory; call it once, before the first turn."""
        if self._journal_directory is None:
            return []
        return await recover(self._journal_directory, self.tools)

    def open_turn(
        self, request: str, tenant: str = "default", parser: Parser | None = None, client: Iterable[Tool] = ()
    ) -> TurnSession:
        """A turn of a request that begins now. parser: for `push`; without it events come through `take`.

        client: tools of the request itself, as `with_client` says.
        """
        self.now_s()
        session = TurnSession(request, tenant, parser, self.with_client(client), self._settings, self._emit)
        self._sessions = {one for one in self._sessions if not one.is_over} | {session}
        return session

    async def close(self) -> None:
        """Retract every turn that is still open, wait for the rollbacks, and end the journal."""
        for session in self._sessions:
            await session.retract("the runtime ended")
        if self._journal is not None:
            self._journal.close()


def arguments_text(outcome: Outcome) -> str:
    """The arguments of a call as the string that an assistant's message carries."""
    import orjson

    args: dict[str, Any] | None = outcome.args
    return outcome.raw if args is None else orjson.dumps(args).decode()
