"""One turn of a model: its calls, opened, fed and sealed by the events of its text, and their results at the end.

Knows no backend; `driver.py` runs the calls.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from llmsys.tool_serve.call import Call, State, Work
from llmsys.tool_serve.driver import Surroundings, drive
from llmsys.tool_serve.effects import Effect, Policy, Speculate, plan_gates
from llmsys.tool_serve.events import CallOpen, Event, Malformed, Parser, Passage, Sealed
from llmsys.tool_serve.records import CallEvent
from llmsys.tool_serve.results import ToolResult
from llmsys.tool_serve.tools import PartialTool, Tool

__all__ = ["NORMAL_ENDS", "Outcome", "TurnSession", "TurnSettings"]

NORMAL_ENDS = frozenset({"stop", "tool_calls", "function_call"})
"""Finish reasons of a message that the model has ended itself; after any other its calls are taken back."""


@dataclass(frozen=True, slots=True)
class TurnSettings:
    """What all turns of a runtime share."""

    policy: Policy
    speculate: Speculate
    stop_on_invalid: bool
    idle_s: float
    shared: Surroundings


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended. `result` is None for client tools; `args` is None, and `raw` its text, if it was malformed.

    Times are seconds of the runtime's clock; `works` are the steps of the tool.
    """

    index: int
    id: str
    name: str
    args: dict[str, Any] | None
    raw: str
    result: ToolResult | None
    state: State
    opened_s: float
    sealed_s: float | None
    over_s: float
    works: tuple[Work, ...]


class TurnSession:
    """The calls of one turn. `push` and `take` never wait; `end_turn` waits for the results."""

    def __init__(
        self,
        request: str,
        tenant: str,
        parser: Parser | None,
        tools: Mapping[str, Tool],
        settings: TurnSettings,
        emit: Callable[[CallEvent], None],
    ) -> None:
        self._request, self._tenant, self._parser = request, tenant, parser
        self._tools, self._settings, self._emit = tools, settings, emit
        self._calls: dict[int, Call] = {}
        self._names: dict[int, str] = {}
        self._raw: dict[int, str] = {}
        self._idle: asyncio.TimerHandle | None = None
        self.stop_reason: str | None = None
        self.is_over = False

    def push(self, text: str) -> list[Event]:
        """Read some more of the model's text; the events that it completed, for whoever shows them."""
        if self._parser is None:
            raise ValueError("the turn was opened without a parser; expected events through take")
        events = self._parser.feed(text)
        self.take(events)
        return events

    def take(self, events: Iterable[Event]) -> None:
        """Act on events. After a retraction they are passed over."""
        for event in events:
            if not self.is_over and not isinstance(event, Passage):
                self._take(event)

    async def end_turn(self, finish_reason: str = "tool_calls") -> list[Outcome]:
        """The message has ended: run what waited for it; the outcomes in the order of the calls.

        finish_reason: one that is not normal (length, content_filter, …) retracts all calls instead.
        """
        if self._parser is not None:
            self.take(self._parser.close())
        for call in self._calls.values():
            if not call.is_sealed:
                call.interrupt(State.FAILED, ToolResult("error: the message ended within the call", "malformed"))
        if finish_reason not in NORMAL_ENDS and self.stop_reason is None:
            return await self.retract(f"the message ended with finish reason {finish_reason!r}")
        for call in self._calls.values():
            call.end_turn()
        await self._all_over()
        return [self._outcome(call, call.result) for call in self._calls.values()]

    async def retract(self, reason: str) -> list[Outcome]:
        """Take back all calls: what runs is cancelled, what was staged rolled back, what waited never runs.

        What is being committed, and what idempotent or effectful calls have done, cannot be taken back.
        """
        void = ToolResult(f"cancelled: {reason}", "cancelled")
        for call in self._calls.values():
            call.interrupt(State.CANCELLED, void)
        await self._all_over()
        return [self._outcome(call, void) for call in self._calls.values()]

    async def _all_over(self) -> None:
        for call in self._calls.values():
            await call.over.wait()
        self.is_over = True
        if self._idle is not None:
            self._idle.cancel()

    def _take(self, event: Event) -> None:
        if isinstance(event, CallOpen):
            self._open(event)
            return
        call = self._calls.get(event.call)  # type: ignore[union-attr]
        if isinstance(event, Malformed):
            self._malformed(event, call)
        elif call is None:
            raise ValueError(f"an event of call {event.call} that was not opened: {event}")  # type: ignore[union-attr]
        elif isinstance(event, Sealed):
            self._seal(call, event)
        elif not isinstance(event, Passage):
            call.put(event)

    def _open(self, event: CallOpen) -> None:
        settings = self._settings
        tool = self._tools.get(event.name) or _unknown(event.name, self._tools)
        call = Call(
            index=event.call,
            id=event.id,
            tool=tool,
            plan=plan_gates(tool.effect, settings.policy, settings.speculate),
            request=self._request,
            tenant=self._tenant,
            now=settings.shared.now,
            emit=self._emit,
        )
        earlier = list(self._calls.values())
        self._calls[event.call], self._names[event.call] = call, event.name
        if tool.make is None:
            return
        work = drive(call, earlier, settings.shared, one_by_one=settings.policy is Policy.BLOCKING)
        call.task = asyncio.create_task(work, name=f"{self._request} {event.id}")
        call.task.add_done_callback(lambda task: _settle(call, task))
        if self._idle is None:
            self._arm(settings.idle_s)

    def _seal(self, call: Call, event: Sealed) -> None:
        call.seal(event.args)
        if call.tool.make is None:
            call.finish(State.DONE, ToolResult(""))

    def _malformed(self, event: Malformed, call: Call | None) -> None:
        result = ToolResult(f"error: malformed call at byte {event.offset}: {event.why}", "malformed")
        if call is None:
            self._open(CallOpen(event.call, f"call_{event.call}", "malformed", event.offset))
            call = self._calls[event.call]
        self._raw[event.call] = event.raw
        self._refuse(call, result)

    def _refuse(self, call: Call, result: ToolResult) -> None:
        call.tell("invalid", reason=result.content)
        if call.tool.make is None:
            call.finish(State.FAILED, result)
        else:
            call.interrupt(State.FAILED, result)
        if self._settings.stop_on_invalid:
            self.stop_reason = result.content

    def _arm(self, after_s: float) -> None:
        self._idle = asyncio.get_running_loop().call_later(after_s, self._look_for_idle)

    def _look_for_idle(self) -> None:
        """End the calls whose writer has been silent for too long; look again when the next could be."""
        now_s, idle_s = self._settings.shared.now(), self._settings.idle_s
        waits = [idle_s]
        for call in self._calls.values():
            if call.is_sealed or call.is_over:
                continue
            left_s = call.heard_s + idle_s - now_s
            if left_s <= 0:
                call.tell("timeout")
                void = ToolResult(f"error: no more of the call came within {idle_s:g} s", "timeout")
                call.interrupt(State.TIMED_OUT, void)
            else:
                waits.append(left_s)
        self._arm(min(waits))

    def _outcome(self, call: Call, result: ToolResult | None) -> Outcome:
        assert call.over_s is not None
        raw = self._raw.get(call.index)
        return Outcome(
            call.index,
            call.id,
            self._names[call.index],
            None if raw is not None or not call.is_sealed else call.args,
            raw or "",
            None if call.tool.make is None and call.state is State.DONE else result,
            call.state,
            call.opened_s,
            call.sealed_s,
            call.over_s,
            tuple(call.works),
        )


def _settle(call: Call, task: asyncio.Task[None]) -> None:
    """A call whose task never began, or failed by a fault of ours, has a result all the same."""
    if call.is_over:
        return
    fault = None if task.cancelled() else task.exception()
    call.finish(*(call.ending or (State.FAILED, ToolResult(f"error: {fault!r}", "internal"))))


def _unknown(name: str, tools: Mapping[str, Tool]) -> Tool:
    """A tool that answers every call with the names of those that there are."""

    class Unknown(PartialTool):
        async def finish(self, args: dict[str, Any]) -> ToolResult:
            known = ", ".join(sorted(tools)) or "none"
            return ToolResult(f"error: there is no tool {name!r}; the tools are: {known}", "unknown_tool")

    return Tool("unknown", "", {}, Unknown, Effect.PURE)
