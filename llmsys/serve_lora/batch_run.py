"""Run a batch: lines in, result lines out as they finish, the engine kept full while the source is slow.

Knows nothing of files, tables or cost; the engine is anything with `add` and `step`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from llmsys.artifacts import BatchRequest, BatchResult
from llmsys.engine import EngineError, Request, TokenEvent
from llmsys.serve_lora.batch_requests import Refusal
from llmsys.serve_lora.batch_results import Answer, Choice, Usage, refused_result
from llmsys.serve_lora.read_ahead import ReadAhead

__all__ = ["BatchRun", "Stepper", "in_order"]


class Stepper(Protocol):
    """What a run needs of an engine."""

    def add(self, request: Request) -> int:
        """Take a request and return its number. Raises EngineError."""

    def step(self) -> list[TokenEvent]:
        """Do one iteration."""


class BatchRun:
    """One pass over a source of lines.

    `translate` makes a request of a line or raises Refusal. `in_engine`: how many requests the engine holds at once,
    waiting ones included, which is what its policy chooses from. `usage` says what a request number's prompt took.
    """

    def __init__(
        self,
        engine: Stepper,
        translate: Callable[[BatchRequest], Request],
        *,
        usage: Callable[[int], Usage],
        decode: Callable[[Sequence[int]], str],
        in_engine: int,
    ) -> None:
        self._engine = engine
        self._usage = usage
        self._decode = decode
        self._translate = translate
        self._in_engine = in_engine
        self._answers: dict[int, tuple[int, Answer]] = {}

    @property
    def in_flight(self) -> bool:
        """Whether the engine holds a request of this run."""
        return bool(self._answers)

    def results(self, lines: Iterable[BatchRequest]) -> Iterator[tuple[int, BatchResult]]:
        """Each line's number in the source, from 0, and its result, as they finish.

        An error of the source is raised after the results of the lines before it.
        """
        source = ReadAhead(enumerate(lines), depth=self._in_engine)
        while True:
            yield from self._fill(source)
            if not self._answers:
                break
            for event in self._engine.step():
                number, answer = self._answers[event.request_id]
                if answer.take(event):
                    del self._answers[event.request_id]
                    yield number, answer.result(self._usage(event.request_id), self._decode)
        if source.error is not None:
            raise source.error

    def _fill(self, source: ReadAhead[tuple[int, BatchRequest]]) -> Iterator[tuple[int, BatchResult]]:
        """Give the engine what it can hold; waits for a line only while the engine has nothing to do."""
        while len(self._answers) < self._in_engine and not source.ended:
            item = source.take(wait=not self._answers)
            if item is None:
                return
            number, line = item
            try:
                request = self._translate(line)
                choices = [Choice() for _ in range(request.sampling.n)]
                self._answers[self._engine.add(request)] = number, Answer(line, choices)
            except Refusal as refusal:
                yield number, refused_result(line.custom_id, refusal.code, refusal.message)
            except EngineError as error:
                yield number, refused_result(line.custom_id, "invalid_request", str(error))


def in_order(results: Iterable[tuple[int, BatchResult]]) -> Iterator[BatchResult]:
    """Results in the order of their lines, each held back until those before it are out.

    >>> list(in_order([(1, "b"), (0, "a"), (2, "c")]))
    ['a', 'b', 'c']
    """
    held: dict[int, BatchResult] = {}
    next_number = 0
    for number, result in results:
        held[number] = result
        while next_number in held:
            yield held.pop(next_number)
            next_number += 1
