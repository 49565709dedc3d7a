"""One call of a turn: its state, its gates, what it still has to be fed, and how it ended.

    open -> running -> sealed -> (committing) -> done | failed | cancelled | timed_out

Knows no tool's steps: `driver.py` takes them. Every change is one event.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from llmsys.tool_serve.effects import Effect, Gate, GatePlan
from llmsys.tool_serve.events import Path, Text, Unit, Value
from llmsys.tool_serve.records import CallEvent
from llmsys.tool_serve.results import ToolResult
from llmsys.tool_serve.tools import Fed, Tool

__all__ = ["Call", "State", "Work", "json_path"]

QUEUE_EVENTS = 1024


class State(StrEnum):
    """Where a call stands; the last four are final."""

    OPEN = "open"
    RUNNING = "running"
    SEALED = "sealed"
    COMMITTING = "committing"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"


FINAL = frozenset({State.DONE, State.FAILED, State.CANCELLED, State.TIMED_OUT})


@dataclass(frozen=True, slots=True)
class Work:
    """A step of the tool: what it was, from when to when."""

    step: str
    start_s: float
    end_s: float


def json_path(path: Path) -> str:
    """A path as people write it.

    >>> json_path(("points", 0, "x"))
    '$.points[0].x'
    """
    return "$" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)


class Call:
    """A call from the moment its tool is named. `now` is the runtime's clock, `emit` takes its events."""

    def __init__(
        self,
        *,
        index: int,
        id: str,
        tool: Tool,
        plan: GatePlan,
        request: str,
        tenant: str,
        now: Callable[[], float],
        emit: Callable[[CallEvent], None],
    ) -> None:
        self.index, self.id, self.tool, self.plan = index, id, tool, plan
        self.request, self.tenant = request, tenant
        self.state = State.OPEN
        self.args: dict[str, Any] = {}
        self.known: dict[str, Any] = {}
        self.result: ToolResult | None = None
        self.works: list[Work] = []
        self.task: asyncio.Task[None] | None = None
        self.deadline: asyncio.Timeout | None = None
        self.over = asyncio.Event()
        self.admitted = asyncio.Event()
        self.ending: tuple[State, ToolResult] | None = None
        self.opened_s = self.heard_s = now()
        self.sealed_s: float | None = None
        self.over_s: float | None = None
        self._now, self._emit = now, emit
        self._gates = {gate: asyncio.Event() for gate in (Gate.SEALED, Gate.TURN)}
        self._inbox: deque[Fed] = deque()
        self._news = asyncio.Event()
        self.keyed = asyncio.Event()
        self._look_for_key()
        self.tell("call_open")

    @property
    def is_pure(self) -> bool:
        """Whether its tool only reads."""
        return self.tool.effect is Effect.PURE

    @property
    def is_over(self) -> bool:
        """Whether it has its result."""
        return self.state in FINAL

    @property
    def is_sealed(self) -> bool:
        """Whether its arguments are complete and valid."""
        return self._gates[Gate.SEALED].is_set()

    @property
    def resource(self) -> str | None:
        """What it is ordered by, as far as its arguments are known."""
        return self.tool.key(self.args if self.is_sealed else self.known)

    def tell(self, event: str, **facts: Any) -> None:  # noqa: ANN401 (the fields of CallEvent)
        """Emit an event of this call."""
        self._emit(CallEvent(self._now(), event, self.request, self.id, self.tool.name, **facts))

    def put(self, event: Fed) -> None:
        """Queue a part of the arguments for the tool; text that follows text of one path is joined past the bound."""
        self.heard_s = self._now()
        if isinstance(event, Value) and len(event.path) == 1:
            self.known[str(event.path[0])] = event.value
            self._look_for_key()
        if self._is_wanted(event):
            last = self._inbox[-1] if len(self._inbox) >= QUEUE_EVENTS else None
            if isinstance(event, Text) and isinstance(last, Text) and last.path == event.path:
                self._inbox[-1] = Text(event.call, event.path, last.delta + event.delta, event.offset)
            else:
                self._inbox.append(event)
        self._news.set()

    def _look_for_key(self) -> None:
        """`keyed` is set once the call's resource is known, or never will be."""
        if self.is_sealed or self.is_over or self.resource != "*":
            self.keyed.set()

    def _is_wanted(self, event: Fed) -> bool:
        partial = self.tool.partial
        if partial is None:
            return False
        if isinstance(event, Value):
            return True
        kind = event.kind if isinstance(event, Unit) else "text"
        return kind == partial.kind and event.path == partial.path

    def seal(self, args: Mapping[str, Any]) -> None:
        """The arguments are complete and valid."""
        self.args = dict(args)
        self.heard_s = self.sealed_s = self._now()
        if self.state is State.RUNNING:
            self.state = State.SEALED
        self._gates[Gate.SEALED].set()
        self._look_for_key()
        self._news.set()
        self.tell("sealed")
        if self.deadline is not None and self.plan.finish is Gate.SEALED:
            self.start_clock()

    def end_turn(self) -> None:
        """The message that the call is in has ended normally."""
        self._gates[Gate.TURN].set()

    async def passed(self, gate: Gate) -> None:
        """Wait for a gate; one that is NAMED stands open. The tool's time does not run meanwhile."""
        if gate is not Gate.NAMED and not self._gates[gate].is_set():
            self.stop_clock()
            await self._gates[gate].wait()

    async def next_part(self) -> Fed | None:
        """The next part to feed; None when the call is sealed and all was fed."""
        while not self._inbox:
            if self.is_sealed:
                return None
            self._news.clear()
            await self._news.wait()
        return self._inbox.popleft()

    def start_clock(self) -> None:
        """From here on, unless it runs already, the tool has its `timeout_s`; the driver set `deadline`."""
        assert self.deadline is not None
        if self.tool.timeout_s is not None and self.deadline.when() is None:
            self.deadline.reschedule(asyncio.get_running_loop().time() + self.tool.timeout_s)

    def stop_clock(self) -> None:
        """What the call waits for now is not the tool's doing."""
        if self.deadline is not None:
            self.deadline.reschedule(None)

    def interrupt(self, state: State, result: ToolResult) -> bool:
        """End the call from outside; False if it is over or its effect is being made to last."""
        if self.is_over or self.state is State.COMMITTING or self.ending is not None:
            return False
        self.ending = (state, result)
        assert self.task is not None
        self.task.cancel()
        return True

    def finish(self, state: State, result: ToolResult) -> None:
        """Enter a final state."""
        assert not self.is_over
        self.state, self.result, self.over_s = state, result, self._now()
        size = len(result.content.encode("utf-8", "replace"))
        self.tell("result", state=state.value, output_bytes=size, reason=result.error or "")
        self.admitted.set()
        self.over.set()
        self._look_for_key()
