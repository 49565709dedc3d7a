"""The steps of one call in their order, each behind its gate: begin, feed, finish, commit or rollback, close.

Whatever a tool does, the call ends with a result: a fault is text for the model. Knows no parser.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from llmsys.errors import LlmsysError
from llmsys.tool_serve.call import Call, State, Work, json_path
from llmsys.tool_serve.effects import Effect, Gate
from llmsys.tool_serve.events import Unit
from llmsys.tool_serve.faults import Overloaded, ToolArgumentError, ToolCrashed, ToolTimeout
from llmsys.tool_serve.journal import Journal
from llmsys.tool_serve.results import ToolResult
from llmsys.tool_serve.slots import Slots
from llmsys.tool_serve.steps import run_step
from llmsys.tool_serve.tools import CallContext, PartialTool

__all__ = ["Approve", "Surroundings", "drive"]

Approve = Callable[[str, dict[str, Any]], Awaitable[bool]]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the calls of a runtime share. `approve(tool, args)` is asked for tools that need it; None says no."""

    slots: Slots
    journal: Journal | None
    approve: Approve | None
    output_bytes: int
    now: Callable[[], float]


async def drive(call: Call, earlier: Sequence[Call], shared: Surroundings, *, one_by_one: bool) -> None:
    """Take a call to its end. earlier: the calls before it in its turn; one_by_one: wait for all of them."""
    try:
        await _admitted(call, earlier, shared, one_by_one=one_by_one)
    except asyncio.CancelledError:
        if call.is_over or call.ending is None:
            raise
        call.tell("cancel", reason=call.ending[1].content)
        call.finish(*call.ending)


async def _admitted(call: Call, earlier: Sequence[Call], shared: Surroundings, *, one_by_one: bool) -> None:
    try:
        await call.passed(call.plan.begin)
        await _ready(call, earlier, one_by_one=one_by_one)
        async with shared.slots.hold(call.tenant, call.tool.name, call.tool.concurrency):
            call.admitted.set()
            await _Drive(call, earlier, shared).run()
    except Overloaded as error:
        await call.passed(Gate.SEALED)
        call.finish(State.FAILED, ToolResult(f"error: {error}", "overloaded"))


async def _ready(call: Call, earlier: Sequence[Call], *, one_by_one: bool) -> None:
    """Wait for the earlier calls that may change what this one sees, and for the slots of those it commits after."""
    for other in earlier:
        if _clash(call, other):
            await call.keyed.wait()
            await other.keyed.wait()
        if one_by_one or _clash(call, other):
            await other.over.wait()
        elif not (call.is_pure or other.is_pure):
            await other.admitted.wait()


def _clash(call: Call, other: Call) -> bool:
    mine, theirs = call.resource, other.resource
    if (call.is_pure and other.is_pure) or mine is None or theirs is None:
        return False
    return mine == theirs or "*" in (mine, theirs)


class _Drive:
    """The tool's object at work on a call that holds a slot."""

    def __init__(self, call: Call, earlier: Sequence[Call], shared: Surroundings) -> None:
        self._call = call
        self._earlier = earlier
        self._shared = shared
        self._tool: PartialTool | None = None
        self._staged = False
        self._key: int | None = None
        self._units = 0

    async def run(self) -> None:
        """All steps; ends with the call's final state and everything given back."""
        call = self._call
        state, result = State.FAILED, ToolResult("the call did not end", "internal")
        try:
            state, result = await self._to_the_end()
        except asyncio.CancelledError:
            if call.ending is None:  # the runtime itself is being ended
                call.ending = (State.CANCELLED, ToolResult("cancelled: the runtime ended", "cancelled"))
            state, result = call.ending
            call.tell("cancel", reason=result.content)
        finally:
            await _uninterrupted(self._leave(result.content))
            call.finish(state, result.capped(self._shared.output_bytes))

    async def _to_the_end(self) -> tuple[State, ToolResult]:
        call, deadline = self._call, asyncio.timeout(None)
        try:
            async with deadline:
                call.deadline = deadline
                try:
                    result = await self._answer()
                finally:
                    call.deadline = None
            if result.error is None:
                await self._commit()
        except Exception as error:
            if not (isinstance(error, TimeoutError) and deadline.expired()):
                return await self._failed(error)
            call.tell("timeout")
            limit = ToolTimeout(call.tool.timeout_s or 0.0, "the end of the call's arguments")
            return State.TIMED_OUT, ToolResult(f"error: {limit}", "timeout")
        return State.DONE if result.error is None else State.FAILED, result

    async def _answer(self) -> ToolResult:
        """Begin, feed and finish, each behind its gate."""
        call = self._call
        assert call.tool.make is not None
        call.state = State.SEALED if call.is_sealed else State.RUNNING
        if call.is_sealed:
            call.start_clock()
        context = self._context()
        self._tool = call.tool.make()
        start_s = self._shared.now()
        await self._step("begin", self._tool.begin, context)
        call.tell("feed_start", start_s=start_s, end_s=self._shared.now())
        await self._gate(call.plan.feed)
        if call.plan.feed is not Gate.NAMED:
            await self._approved()
        while (event := await call.next_part()) is not None:
            unit = self._units if isinstance(event, Unit) else -1
            self._units += isinstance(event, Unit)
            start_s = self._shared.now()
            await self._step("feed", self._tool.feed, event)
            kind = "unit" if isinstance(event, Unit) else "value"
            facts = {"path": json_path(event.path), "unit": unit, "start_s": start_s, "end_s": self._shared.now()}
            call.tell(kind, **facts)
        await self._gate(call.plan.finish)
        if call.plan.feed is Gate.NAMED:
            await self._approved()
        start_s = self._shared.now()
        result = ToolResult.of(await self._step("finish", self._tool.finish, dict(call.args)))
        call.tell("feed_end", start_s=start_s, end_s=self._shared.now())
        return result

    async def _gate(self, gate: Gate) -> None:
        """Pass a gate; the one at the turn's end lets calls through in their order."""
        call = self._call
        await call.passed(gate)
        if gate is Gate.TURN:
            call.stop_clock()
            await self._in_order()
        if call.is_sealed:
            call.state = State.SEALED
            call.start_clock()

    async def _in_order(self) -> None:
        for other in self._earlier:
            if not other.is_pure:
                await other.over.wait()

    async def _approved(self) -> None:
        call = self._call
        if not call.tool.approval:
            return
        call.stop_clock()
        if self._shared.approve is None or not await self._shared.approve(call.tool.name, dict(call.args)):
            raise LlmsysError(f"the call of {call.tool.name} was not approved")
        call.start_clock()

    async def _commit(self) -> None:
        call = self._call
        if call.plan.commit is None:
            return
        await call.passed(Gate.TURN)
        await self._in_order()
        call.state = State.COMMITTING
        await _uninterrupted(self._make_last())
        call.tell("commit")

    async def _make_last(self) -> None:
        assert self._tool is not None
        await self._step("commit", self._tool.commit)
        self._staged = False
        if self._key is not None and self._shared.journal is not None:
            self._shared.journal.end(self._key, "committed")

    async def _leave(self, reason: str) -> None:
        """Undo what was staged and not committed, and close; faults of either are told, not raised."""
        if self._tool is None:
            return
        if self._staged:
            self._staged = False
            fault = await self._try("rollback", self._tool.rollback, reason)
            self._call.tell("rollback", reason=fault or reason)
            if self._key is not None and self._shared.journal is not None and fault is None:
                self._shared.journal.end(self._key, "rolled_back")
        await self._try("close", self._tool.close)

    async def _try(self, name: str, step: Callable[..., Any], *args: object) -> str | None:
        try:
            async with asyncio.timeout(self._call.tool.timeout_s):
                await self._step(name, step, *args)
        except Exception as error:
            return f"{name} failed: {type(error).__name__}: {error}"
        return None

    async def _failed(self, error: Exception) -> tuple[State, ToolResult]:
        """The fault as a result, once it is known that the call itself was in order."""
        await self._call.passed(Gate.SEALED)
        await self._call.passed(self._call.plan.finish)
        return State.FAILED, ToolResult(f"error: {_told(error)}", _kind(error))

    async def _step(self, name: str, step: Callable[..., Any], *args: object) -> Any:  # noqa: ANN401
        if getattr(step, "__func__", None) is getattr(PartialTool, name):
            return None  # not overridden: nothing to do
        start_s = self._shared.now()
        try:
            return await run_step(step, *args, report=self._held)
        finally:
            self._call.works.append(Work(name, start_s, self._shared.now()))

    def _held(self, seconds: float) -> None:
        self._call.tell("held_loop", reason=f"{self._call.tool.name} held the event loop for {seconds * 1e3:.0f} ms")

    def _context(self) -> CallContext:
        call, journal = self._call, self._shared.journal
        context = CallContext(call.request, call.tenant, call.id, call.tool.name)
        if call.tool.effect is not Effect.STAGED:
            return context
        self._staged = True
        if journal is not None:
            key = self._key = journal.begin(tool=call.tool.name, request=call.request, tenant=call.tenant, call=call.id)
            context.write_memory = lambda memory: journal.remember(key, memory)
        return context


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, LlmsysError) else f"{type(error).__name__}: {error}"


def _kind(error: Exception) -> str:
    if isinstance(error, ToolArgumentError):
        return "arguments"
    return "crashed" if isinstance(error, ToolCrashed) else "tool"


async def _uninterrupted(work: Coroutine[Any, Any, T]) -> T:
    """Finish the work, whatever cancels the one who waits for it: the call's state tells what came of it."""
    task = asyncio.ensure_future(work)
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            waiting = asyncio.current_task()
            assert waiting is not None
            waiting.uncancel()
    return task.result()
