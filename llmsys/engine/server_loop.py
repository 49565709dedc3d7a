"""`AsyncEngine`: an engine in a thread of its own, and an asyncio door to it.

Only that thread touches the engine, apart from `cancel` and `stats`, which allow it. A consumer that leaves its stream,
by break, cancellation or an error, cancels the request. Knows nothing about HTTP.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Lock, Thread
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from llmsys.engine.config import EngineConfig
from llmsys.engine.core import Engine
from llmsys.engine.errors import EngineError
from llmsys.engine.outputs import EngineEvent, EngineStats
from llmsys.engine.sequence import Request, TokenEvent

__all__ = ["AsyncEngine"]

T = TypeVar("T")
_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Ticket:
    """A request on its way through the thread; `number` is the engine's, `left` says that nobody listens any more."""

    request: Request
    unfinished: int
    inbox: asyncio.Queue[TokenEvent | EngineError] = field(default_factory=asyncio.Queue)
    number: int | None = None
    left: bool = False


@dataclass(slots=True, eq=False)
class _Call(Generic[T]):
    """Something to be done in the thread, and where its result is awaited."""

    action: Callable[[Engine], T]
    answer: asyncio.Future[T]


class AsyncEngine:
    """Streams of one engine for one event loop, between `async with` and its end; it cannot be opened twice."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._commands: SimpleQueue[_Ticket | _Call[Any] | None] = SimpleQueue()
        self._tickets: dict[int, _Ticket] = {}
        self._door = Lock()
        self._closed: str | None = "the engine is not open yet; use it in async with"
        self._thread = Thread(target=self._run, name="llmsys-engine", daemon=True)
        self._loop: asyncio.AbstractEventLoop

    @classmethod
    def load(
        cls,
        model: str,
        *,
        config: EngineConfig | None = None,
        on_event: Callable[[EngineEvent], None] | None = None,
    ) -> Self:
        """Load a model as `Engine.load` does, with its errors; `on_event` is called in the engine's thread."""
        return cls(Engine.load(model, config=config, on_event=on_event))

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._closed = None
        self._thread.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._commands.put(None)
        await asyncio.to_thread(self._thread.join)

    @property
    def failure(self) -> str | None:
        """Why no request is taken, None while the engine runs."""
        return self._closed

    def stats(self) -> EngineStats:
        """Return a snapshot without waiting for the step under way."""
        return self._engine.stats()

    async def call(self, action: Callable[[Engine], T]) -> T:
        """Run `action` in the engine's thread between two steps; return or raise what it does. EngineError if closed.

        The step under way is waited for, and nothing moves while `action` runs: it should take microseconds.
        """
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._send(_Call(action, answer))
        return await answer

    async def stream(self, request: Request) -> AsyncGenerator[TokenEvent, None]:
        """Run a request and yield its events, those of all its choices; leaving the loop cancels it.

        Raises what `Engine.add` raises, and EngineError when the engine stops before the request has ended.
        """
        ticket = _Ticket(request, request.sampling.n)
        self._send(ticket)
        try:
            while ticket.unfinished:
                item = await ticket.inbox.get()
                if isinstance(item, EngineError):
                    ticket.unfinished = 0
                    raise item
                ticket.unfinished -= item.finish is not None
                yield item
        finally:
            self._leave(ticket)

    def _send(self, command: "_Ticket | _Call[Any]") -> None:
        with self._door:
            if self._closed is not None:
                raise EngineError(self._closed)
            self._commands.put(command)

    def _leave(self, ticket: _Ticket) -> None:
        """Cancel what has not ended; `left` is set first, so that a number given meanwhile is cancelled by `_add`."""
        ticket.left = True
        if ticket.unfinished and ticket.number is not None:
            self._engine.cancel(ticket.number)

    def _run(self) -> None:
        """The thread: take requests, make steps, hand out events, until told to stop or a step fails."""
        reason = "the engine was closed"
        try:
            while self._take_commands():
                self._hand_out(self._engine.step())
        except Exception as error:  # whatever it was, the streams must hear of it
            reason = _stopped(error)
        finally:
            self._close(reason)

    def _take_commands(self) -> bool:
        """Add what has come, waiting for it while there is nothing to do; False when told to stop."""
        while not (self._engine.busy and self._commands.empty()):
            command = self._commands.get()
            if command is None:
                return False
            if isinstance(command, _Call):
                self._perform(command)
            else:
                self._add(command)
        return True

    def _perform(self, call: _Call[Any]) -> None:
        try:
            result = call.action(self._engine)
        except Exception as error:  # it is the caller's, not the engine's
            self._loop.call_soon_threadsafe(_refuse, call, error)
        else:
            self._loop.call_soon_threadsafe(_answer, call, result)

    def _add(self, ticket: _Ticket) -> None:
        try:
            number = self._engine.add(ticket.request)
        except EngineError as error:
            self._post([(ticket, error)])
            return
        except Exception as error:  # this stream is not among the known ones yet, and would wait for ever
            self._post([(ticket, EngineError(_stopped(error)))])
            raise
        self._tickets[number] = ticket
        ticket.number = number
        if ticket.left:
            self._engine.cancel(number)

    def _hand_out(self, events: list[TokenEvent]) -> None:
        self._post([(self._tickets[event.request_id], event) for event in events])
        for event in events:
            if event.finish is not None and not self._engine.unfinished(event.request_id):
                self._tickets.pop(event.request_id, None)

    def _post(self, mail: list[tuple[_Ticket, TokenEvent | EngineError]]) -> None:
        """Put items into their inboxes, in the loop's thread: one call for a whole step."""
        if mail:
            self._loop.call_soon_threadsafe(_deliver, mail)

    def _close(self, reason: str) -> None:
        """Refuse what comes, tell every open stream why, and give back what its request held."""
        with self._door:
            self._closed = reason
        while not self._commands.empty():
            command = self._commands.get()
            if isinstance(command, _Call):
                self._loop.call_soon_threadsafe(_refuse, command, EngineError(reason))
            elif command is not None:
                self._post([(command, EngineError(reason))])
        for number, ticket in self._tickets.items():
            self._post([(ticket, EngineError(reason, request_id=number))])
            self._engine.cancel(number)
        try:
            self._engine.take_cancellations()
        except Exception:  # what broke the engine may break its end too; the streams know already
            _log.exception("the engine could not give back all that it held")


def _stopped(error: Exception) -> str:
    return f"the engine stopped: {type(error).__name__}: {error}"


def _deliver(mail: list[tuple[_Ticket, TokenEvent | EngineError]]) -> None:
    for ticket, item in mail:
        ticket.inbox.put_nowait(item)


def _answer(call: _Call[T], result: T) -> None:
    if not call.answer.done():
        call.answer.set_result(result)


def _refuse(call: _Call[Any], error: Exception) -> None:
    if not call.answer.done():
        call.answer.set_exception(error)
