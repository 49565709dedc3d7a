"""Run a batch: lines in, result lines out as they finish, the engine kept full while the source is slow.

Knows nothing of files, tables or cost; the engine is anything with `add` and `step`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from llmsys.artifacts import BatchRequest, BatchResult
from llmsys.engine.completion import Collector
from llmsys.engine.errors import EngineError
from llmsys.engine.outputs import Completion
from llmsys.engine.sequence import Request, TokenEvent
from llmsys.serve_lora.batch_requests import Refusal
from llmsys.serve_lora.batch_results import answer_result, refused_result
from llmsys.serve_lora.read_ahead import ReadAhead

__all__ = ["BatchRun", "Stepper", "in_order"]

T = TypeVar("T")


class Stepper(Protocol):
    """What a run needs of an engine."""

    def add(self, request: Request) -> int:
        """Take a request and return its number. Raises EngineError."""

    def step(self) -> list[TokenEvent]:
        """Do one iteration."""


@dataclass(slots=True)
class _Running:
    """A line in the engine: its number in the source, how many choices it wants, and those that have ended."""

    number: int
    line: BatchRequest
    wanted: int
    events: Collector = field(default_factory=Collector)
    done: list[Completion] = field(default_factory=list)


class BatchRun:
    """One pass over a source of lines.

    `translate` makes a request of a line or raises Refusal. `in_engine`: how many requests the engine holds at once,
    waiting ones included, which is what its policy chooses from. `on_refused` hears of lines that it did not take.
    """

    def __init__(
        self,
        engine: Stepper,
        translate: Callable[[BatchRequest], Request],
        *,
        decode: Callable[[Sequence[int]], str],
        on_refused: Callable[[BatchRequest], None],
        in_engine: int,
    ) -> None:
        self._engine = engine
        self._translate = translate
        self._decode = decode
        self._on_refused = on_refused
        self._in_engine = in_engine
        self._running: dict[int, _Running] = {}

    def results(self, lines: Iterable[BatchRequest]) -> Iterator[tuple[int, BatchResult]]:
        """Each line's number in the source, from 0, and its result, as they finish.

        An error of the source is raised after the results of the lines before it.
        """
        source = ReadAhead(enumerate(lines), depth=self._in_engine)
        while True:
            yield from self._fill(source)
            if not self._running:
                break
            for event in self._engine.step():
                running = self._running[event.request_id]
                running.done += running.events.take([event])
                if len(running.done) == running.wanted:
                    del self._running[event.request_id]
                    yield running.number, answer_result(running.line, running.done, self._decode)
        if source.error is not None:
            raise source.error

    def _fill(self, source: ReadAhead[tuple[int, BatchRequest]]) -> Iterator[tuple[int, BatchResult]]:
        """Give the engine what it can hold; waits for a line only while the engine has nothing to do."""
        while len(self._running) < self._in_engine and not source.ended:
            item = source.take(wait=not self._running)
            if item is None:
                return
            number, line = item
            try:
                request = self._translate(line)
                self._running[self._engine.add(request)] = _Running(number, line, request.sampling.n)
            except (Refusal, EngineError) as error:
                self._on_refused(line)
                code = error.code if isinstance(error, Refusal) else "invalid_request"
                yield number, refused_result(line.custom_id, code, str(error))


def in_order(results: Iterable[tuple[int, T]]) -> Iterator[T]:
    """Results in the order of their lines, each held back until those before it are out.

    >>> list(in_order([(1, "b"), (0, "a"), (2, "c")]))
    ['a', 'b', 'c']
    """
    held: dict[int, T] = {}
    next_number = 0
    for number, result in results:
        held[number] = result
        while next_number in held:
            yield held.pop(next_number)
            next_number += 1
