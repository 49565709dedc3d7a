"""What the verbs do with questions and a backend, and the table of what a run took.

Knows nothing of options.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from llmsys.artifacts import EventLog, open_source, reading_faults
from llmsys.errors import LlmsysError
from llmsys.sgd_decode.answers import Answer, Question
from llmsys.sgd_decode.auto_writer import Router
from llmsys.sgd_decode.backends import Backend, Job
from llmsys.sgd_decode.driver import answer_all, writer_for
from llmsys.sgd_decode.events import DecodeEvent
from llmsys.sgd_decode.plan import Plan
from llmsys.sgd_decode.repair import parse_plan
from llmsys.sgd_decode.settings import DecodeSettings

__all__ = [
    "answer_with_log",
    "plan_texts",
    "read_text",
    "summary_row",
]


def read_text(source: str, *, max_nodes: int) -> Plan:
    """The plan in a file of text, or on stdin for `-`. Raises BadInput for what is no UTF-8."""
    with open_source(source) as stream, reading_faults(source):
        return parse_plan(stream.read().decode("utf-8", "replace"), max_nodes=max_nodes)


def plan_texts(questions: Sequence[Question], backend: Backend, settings: DecodeSettings) -> list[Plan]:
    """Let the backend write the plans of questions, and nothing else."""
    texts = {question.id: "" for question in questions}
    for question in questions:
        messages = settings.prompts.planning(question.messages, max_nodes=settings.max_nodes)
        grammar: Literal["", "plan"] = "plan" if settings.grammar else ""
        job = Job(
            question.id, messages, settings.plan_tokens, ("\nend",), grammar=grammar, max_parts=settings.max_nodes
        )
        backend.start(job)
        while deltas := backend.wait():
            for delta in deltas:
                if delta.end == "error":
                    raise LlmsysError(f"question {question.id}: {delta.error}")
                texts[question.id] += delta.text
    return [parse_plan(text, max_nodes=settings.max_nodes) for text in texts.values()]


def answer_with_log(
    questions: Sequence[Question],
    backend: Backend,
    settings: DecodeSettings,
    *,
    concurrency: int,
    events: Path | None,
    router: Router | None = None,
) -> Iterator[Answer]:
    """`answer_all`, with an event log that appears when all is answered; None writes none."""
    if events is None:
        yield from answer_all(questions, backend, writer_for(settings, router=router), concurrency=concurrency)
        return
    with EventLog(events) as log:

        def listen(event: DecodeEvent) -> None:
            if event.event != "node_token":
                log.write(event)

        make = writer_for(settings, listen=listen, router=router)
        yield from answer_all(questions, backend, make, concurrency=concurrency)


def summary_row(answer: Answer) -> dict[str, str | int | float | None]:
    """One answer as a row of the table on stderr: AR s and the bound are forecasts from step times."""
    forecast = answer.forecast
    return {
        "question": answer.question.id,
        "mode": answer.mode,
        "parts": len(answer.parts),
        "depth": answer.plan.depth,
        "width": answer.plan.width,
        "plan s": answer.plan_s,
        "total s": answer.total_s,
        "tokens": answer.tokens.answer,
        "AR s": forecast.ar_s if forecast is not None else None,
        "speed-up": forecast.ar_s / max(answer.total_s, 1e-9) if forecast is not None else None,
        "of bound": forecast.lower_bound_s / max(answer.total_s, 1e-9) if forecast is not None else None,
        "missing": len(answer.missing),
    }
