"""A decoder in a thread of its own, where questions come and go while others are being answered.

Callers live in event loops; what they hear comes by `call_soon_threadsafe`. Knows nothing of HTTP.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from itertools import count
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import Protocol

from llmsys.errors import LlmsysError
from llmsys.sgd_decode.answers import Answer, Question
from llmsys.sgd_decode.backends import Backend
from llmsys.sgd_decode.driver import Decoder, Writer
from llmsys.sgd_decode.glimpses import AsTheyCome, InOrder, News

__all__ = ["Room", "RoomClosed", "Tally"]

TURN_S = 0.05
"""Longest wait for a backend before new questions are looked at."""

View = InOrder | AsTheyCome
Update = News | Answer
Make = Callable[[Question], Writer]


class RoomClosed(LlmsysError):
    """A question that cannot be answered because the decoder has stopped."""


class _Ask(Protocol):
    """Builds a question once its number is known."""

    def __call__(self, number: int) -> Question: ...


@dataclass(slots=True)
class Tally:
    """What was answered so far, for those who watch: answers by mode, parts, tokens, and clients that left."""

    answers: dict[str, int] = field(default_factory=dict)
    failed: int = 0
    left: int = 0
    parts: int = 0
    answer_tokens: int = 0
    plan_tokens: int = 0
    prefill: int = 0
    prefill_saved: int = 0

    def add(self, answer: Answer) -> None:
        """Count an answer."""
        self.answers[answer.mode] = self.answers.get(answer.mode, 0) + 1
        self.failed += answer.failed
        self.parts += len(answer.parts)
        self.answer_tokens += answer.tokens.answer
        self.plan_tokens += answer.tokens.plan
        self.prefill += answer.tokens.prefill
        self.prefill_saved += answer.tokens.prefill_saved


@dataclass(slots=True, eq=False)
class _Seat:
    """A question that is being answered, and who hears of it."""

    question: Question
    make: Make
    view: View | None
    loop: asyncio.AbstractEventLoop
    heard: asyncio.Queue[Update | LlmsysError] = field(default_factory=asyncio.Queue)
    writer: Writer | None = None

    def tell(self, what: Update | LlmsysError) -> None:
        """Pass something on, from the decoder's thread; a loop that is gone hears nothing."""
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.heard.put_nowait, what)


class Room:
    """Questions and the thread that answers them; a context manager."""

    def __init__(self, backend: Backend) -> None:
        self.tally = Tally()
        self.backend = backend
        self._decoder = Decoder(backend)
        self._seats: list[_Seat] = []
        self._numbers = count()
        self._doings: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._closing = False
        self._gate = Lock()
        self._thread = Thread(target=self._run, name="sgd decoder", daemon=True)

    def __enter__(self) -> "Room":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._doings.put(self._close)
        self._thread.join()
        self.backend.close()

    @property
    def open(self) -> int:
        """Questions that are being answered."""
        return len(self._seats)

    async def answer(self, ask: _Ask, make: Make, view: View | None) -> AsyncGenerator[Update, None]:
        """What becomes of a question: news as `view` arranges them, then its answer, last.

        A caller that stops listening ends the question's jobs. Raises RoomClosed, and the decoder's own faults.
        """
        seat = _Seat(ask(next(self._numbers)), make, view, asyncio.get_running_loop())
        with self._gate:
            if self._closing:
                raise RoomClosed("the server stops")
            self._doings.put(lambda: self._take_in(seat))
        try:
            while True:
                what = await seat.heard.get()
                if isinstance(what, LlmsysError):
                    raise what
                yield what
                if isinstance(what, Answer):
                    return
        finally:
            self._doings.put(lambda: self._let_go(seat))

    def _run(self) -> None:
        """The thread: until closed, do what was asked and take a turn; whatever ends it, nobody waits for ever."""
        try:
            while not self._closing:
                self._do(blocking=not self._decoder.unfinished)
                if self._decoder.unfinished:
                    self._turn()
        finally:
            with self._gate:
                self._closing = True
            self._do(blocking=False)
            self._empty(RoomClosed("the server stops"))

    def _turn(self) -> None:
        try:
            self._decoder.turn(TURN_S)
        except LlmsysError as error:
            self._empty(error)
        for seat in list(self._seats):
            self._report(seat)

    def _do(self, *, blocking: bool) -> None:
        try:
            self._doings.get(block=blocking)()
            while True:
                self._doings.get_nowait()()
        except Empty:
            return

    def _take_in(self, seat: _Seat) -> None:
        self._seats.append(seat)
        try:
            seat.writer = seat.make(seat.question)
        except LlmsysError as error:
            self._seats.remove(seat)
            seat.tell(error)
        else:
            self._decoder.add(seat.writer)

    def _let_go(self, seat: _Seat) -> None:
        """Forget a question; one that is not answered yet has lost its client."""
        if seat in self._seats and seat.writer is not None:
            self._seats.remove(seat)
            self._decoder.drop(seat.writer)
            self.tally.left += 1

    def _report(self, seat: _Seat) -> None:
        writer = seat.writer
        assert writer is not None
        if seat.view is not None:
            for news in seat.view.news(writer.glimpses()):
                seat.tell(news)
        if writer.done:
            answer = writer.answer()
            self._seats.remove(seat)
            self._decoder.drop(writer)
            self.tally.add(answer)
            seat.tell(answer)

    def _empty(self, why: LlmsysError) -> None:
        """End all questions with a fault."""
        for seat in self._seats:
            if seat.writer is not None:
                self._decoder.drop(seat.writer)
            seat.tell(why)
        self._seats.clear()

    def _close(self) -> None:
        self._closing = True
