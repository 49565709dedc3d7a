"""Several questions on one backend: which of them gets a free slot, and answers in the order of questions.

A free slot goes to the question of the tenant with the fewest running jobs. Knows nothing of how an answer is made.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from llmsys.errors import LlmsysError
from llmsys.sgd_decode.answers import Answer, Question
from llmsys.sgd_decode.backends import Backend, Delta, Job
from llmsys.sgd_decode.events import DecodeEvent
from llmsys.sgd_decode.graph_writer import GraphWriter
from llmsys.sgd_decode.lengths import LengthBook
from llmsys.sgd_decode.plain_writer import PlainWriter
from llmsys.sgd_decode.settings import DecodeSettings
from llmsys.sgd_decode.skeleton_writer import SkeletonWriter

__all__ = ["Stuck", "Writer", "answer_all", "writer_for"]


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


def writer_for(
    settings: DecodeSettings, *, listen: Callable[[DecodeEvent], None] = lambda event: None
) -> Callable[[Question], Writer]:
    """What makes a writer of the mode that settings name."""
    lengths = LengthBook(settings.node_tokens)
    if settings.mode == "ar":
        return lambda question: PlainWriter(question, settings)
    if settings.mode == "sot":
        return lambda question: SkeletonWriter(question, settings, lengths)
    return lambda question: GraphWriter(question, settings, lengths, listen)


def answer_all(
    questions: Iterable[Question], backend: Backend, make: Callable[[Question], Writer], *, concurrency: int = 4
) -> Iterator[Answer]:
    """Answer questions, at most `concurrency` at once; yield answers in the order of questions."""
    source = iter(questions)
    writers: list[Writer] = []
    owners: dict[str, Writer] = {}
    more = True
    while more or writers:
        while more and sum(not writer.done for writer in writers) < concurrency:
            question = next(source, None)
            more = question is not None
            if question is not None:
                writers.append(make(question))
        _start(writers, owners, backend)
        if owners:
            for delta in backend.wait():
                _hand_over(delta, owners, backend)
        elif any(not writer.done for writer in writers):
            raise Stuck("questions are open, but none of their jobs can start")
        while writers and writers[0].done:
            yield writers.pop(0).answer()


def _start(writers: list[Writer], owners: dict[str, Writer], backend: Backend) -> None:
    """Fill free slots, one at a time, from the tenant and the question that have the fewest jobs running."""
    open_writers = [writer for writer in writers if not writer.done]
    while open_writers and len(owners) < backend.slots:
        by_tenant = Counter(writer.question.tenant for writer in owners.values())
        by_question = Counter(writer.question.number for writer in owners.values())
        writer = min(
            open_writers,
            key=lambda w: (by_tenant[w.question.tenant], by_question[w.question.number], w.question.number),
        )
        jobs = writer.jobs(1, backend.now_s())
        if not jobs:
            open_writers.remove(writer)
        for job in jobs:
            owners[job.id] = writer
            backend.start(job)


def _hand_over(delta: Delta, owners: dict[str, Writer], backend: Backend) -> None:
    writer = owners.get(delta.job)
    if writer is None:
        return
    if delta.end is not None:
        del owners[delta.job]
    writer.take(delta)
    for job_id in writer.cancelled:
        if owners.pop(job_id, None) is not None:
            backend.cancel(job_id)
    writer.cancelled.clear()
