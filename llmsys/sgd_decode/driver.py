"""Several questions on one backend: which of them gets a free slot, and answers in the order of questions.

A free slot goes to the question of the tenant with the fewest running jobs. Knows nothing of how an answer is made.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from llmsys.errors import LlmsysError
from llmsys.sgd_decode.answers import Answer, Question
from llmsys.sgd_decode.auto_writer import AutoWriter, Router
from llmsys.sgd_decode.backends import Backend, Delta, Job
from llmsys.sgd_decode.confidence import ConfidenceBook
from llmsys.sgd_decode.glimpses import Glimpse
from llmsys.sgd_decode.graph_writer import GraphWriter, Listener
from llmsys.sgd_decode.lengths import LengthBook
from llmsys.sgd_decode.plain_writer import PlainWriter
from llmsys.sgd_decode.routers import ByPlan
from llmsys.sgd_decode.settings import DecodeSettings
from llmsys.sgd_decode.skeleton_writer import SkeletonWriter

__all__ = ["Decoder", "Stuck", "Writer", "answer_all", "writer_for"]


class Stuck(LlmsysError):
    """Questions are open, but nothing runs and nothing can start: a fault of the decoder or of its backend."""


class Writer(Protocol):
    """One question on its way. `cancelled` are jobs to end, `done` says that `answer` may be called."""

    question: Question
    done: bool
    cancelled: list[str]

    def jobs(self, free: int, now_s: float) -> list[Job]:
        """At most `free` jobs to start now."""
        ...

    def take(self, delta: Delta) -> None:
        """What one of its jobs wrote."""
        ...

    def answer(self) -> Answer:
        """The finished answer."""
        ...

    def glimpses(self) -> Iterator[Glimpse]:
        """What is certain of the answer, part by part in its order."""
        ...


def writer_for(
    settings: DecodeSettings, *, listen: Listener = lambda event: None, router: Router | None = None
) -> Callable[[Question], Writer]:
    """What makes a writer of the mode that settings name; `router` decides in mode `auto`, by default the plan."""
    lengths = LengthBook(settings.node_tokens)
    confidence = ConfidenceBook(settings.routing.escalate_below)
    decides = router or ByPlan()

    def make(question: Question) -> Writer:
        if settings.mode == "ar":
            return PlainWriter(question, settings, listen=listen)
        if settings.mode == "sot":
            return SkeletonWriter(question, settings, lengths, listen)
        if settings.mode != "auto":
            return GraphWriter(question, settings, lengths, confidence, listen)
        graph = GraphWriter(question, settings, lengths, confidence, listen, cautious=True)
        return AutoWriter(question, graph, PlainWriter(question, settings, listen=listen), decides)

    return make


class Decoder:
    """Questions that are open on a backend, in the order in which they came."""

    def __init__(self, backend: Backend) -> None:
        self.writers: list[Writer] = []
        self._backend = backend
        self._owners: dict[str, Writer] = {}

    @property
    def unfinished(self) -> int:
        """Questions whose answers are not there."""
        return sum(not writer.done for writer in self.writers)

    def add(self, writer: Writer) -> None:
        """Open a question."""
        self.writers.append(writer)

    def drop(self, writer: Writer) -> None:
        """Forget a question and end its jobs."""
        self.writers.remove(writer)
        for job_id in [job_id for job_id, owner in self._owners.items() if owner is writer]:
            del self._owners[job_id]
            self._backend.cancel(job_id)

    def turn(self, timeout_s: float | None = None) -> None:
        """Fill free slots and take what the backend wrote. Raises Stuck where open questions can never go on."""
        self._start()
        if self._owners:
            for delta in self._backend.wait(timeout_s):
                self._hand_over(delta)
        elif self.unfinished:
            raise Stuck("questions are open, but none of their jobs can start")

    def _start(self) -> None:
        """Fill free slots, one at a time, from the tenant and the question that have the fewest jobs running."""
        open_writers = [writer for writer in self.writers if not writer.done]
        while open_writers and len(self._owners) < self._backend.slots:
            by_tenant = Counter(writer.question.tenant for writer in self._owners.values())
            by_question = Counter(writer.question.number for writer in self._owners.values())
            writer = min(
                open_writers,
                key=lambda w: (by_tenant[w.question.tenant], by_question[w.question.number], w.question.number),
            )
            jobs = writer.jobs(1, self._backend.now_s())
            if not jobs:
                open_writers.remove(writer)
            for job in jobs:
                self._owners[job.id] = writer
                self._backend.start(job)

    def _hand_over(self, delta: Delta) -> None:
        writer = self._owners.get(delta.job)
        if writer is None:
            return
        if delta.end is not None:
            del self._owners[delta.job]
        writer.take(delta)
        for job_id in writer.cancelled:
            if self._owners.pop(job_id, None) is not None:
                self._backend.cancel(job_id)
        writer.cancelled.clear()


def answer_all(
    questions: Iterable[Question], backend: Backend, make: Callable[[Question], Writer], *, concurrency: int = 4
) -> Iterator[Answer]:
    """Answer questions, at most `concurrency` at once; yield answers in the order of questions."""
    source = iter(questions)
    decoder = Decoder(backend)
    more = True
    while more or decoder.writers:
        while more and decoder.unfinished < concurrency:
            question = next(source, None)
            more = question is not None
            if question is not None:
                decoder.add(make(question))
        decoder.turn()
        while decoder.writers and decoder.writers[0].done:
            yield decoder.writers.pop(0).answer()
