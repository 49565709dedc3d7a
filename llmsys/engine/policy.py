"""The seam where an admission order plugs in, and the default order: first come, first served.

A policy sees requests, token counts and the clock's reading; it knows nothing about blocks, sequences or the model.
The engine calls it from one thread: `on_arrival`; then in every step `pick` (and `victim` at a shortage of memory);
after the step `on_tokens`; at the end of a request `on_finish`, once.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from llmsys.engine.sequence import Finish, Request

__all__ = ["FirstComeFirstServed", "Policy"]


class Policy(Protocol):
    """Who is admitted next, and who has to give way."""

    def on_arrival(self, request: Request, now_s: float) -> None:
        """Take note of a request that has joined the waiting queue."""

    def pick(self, waiting: Sequence[Request], admit: Callable[[Request], bool], now_s: float) -> Iterator[Request]:
        """Yield those of `waiting` (oldest first) that `admit` took, in order of service.

        `admit` reserves memory for the request; once it has said False the pick is over.
        """

    def on_tokens(self, request: Request, *, input_tokens: int, output_tokens: int) -> None:
        """Charge for the tokens of one step; the whole prompt is charged once, in the step of the admission."""

    def on_finish(self, request: Request, finish: Finish) -> None:
        """Take note of the end of a request, whether it was ever admitted or not."""

    def victim(self, running: Sequence[Request]) -> Request:
        """Return the one of `running` (never empty) that gives up its memory and is computed again later."""


class FirstComeFirstServed:
    """Admit by arrival, preempt the newest arrival; looks at neither tenant nor priority."""

    def on_arrival(self, request: Request, now_s: float) -> None:
        """Nothing to note: the waiting queue is already in order of arrival."""

    def pick(self, waiting: Sequence[Request], admit: Callable[[Request], bool], now_s: float) -> Iterator[Request]:
        """Yield from the head of the queue until something does not fit."""
        for request in waiting:
            if not admit(request):
                return
            yield request

    def on_tokens(self, request: Request, *, input_tokens: int, output_tokens: int) -> None:
        """Nothing to charge."""

    def on_finish(self, request: Request, finish: Finish) -> None:
        """Nothing to settle."""

    def victim(self, running: Sequence[Request]) -> Request:
        """Return the newest arrival, which has the least work to lose."""
        return max(running, key=lambda request: (request.arrival_s, request.request_id))
