"""What the verbs do with questions and a backend, and the table of what a run took.

Knows nothing of options.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
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
    "Summary",
    "answer_with_log",
    "compare_modes",
    "plan_texts",
    "read_text",
    "summarize",
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


def compare_modes(
    questions: Sequence[Question],
    backend: Backend,
    modes: Sequence[str],
    *,
    node_tokens: int | None,
    answer_tokens: int,
    max_nodes: int,
    grammar: bool,
    seed: int,
    on_answer: Callable[[], None] = lambda: None,
) -> list["Summary"]:
    """Answer the same questions in each mode, one question at a time. Raises UsageFault for an unknown mode."""
    found = []
    for mode in modes:
        settings = DecodeSettings(
            mode=mode,
            grammar=grammar,
            max_nodes=max_nodes,
            node_tokens=node_tokens,
            answer_tokens=answer_tokens,
            seed=seed,
        )
        answers = []
        for answer in answer_all(questions, backend, writer_for(settings), concurrency=1):
            answers.append(answer)
            on_answer()
        found.append(summarize(mode, answers))
    return found


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run of one mode took; seconds are means over its questions. graphs: answers that were written as one."""

    mode: str
    questions: int
    graphs: int
    plan_s: float
    total_s: float
    answer_tokens: int
    plan_tokens: int
    tok_s: float
    prefill_saved: float
    faults: int


def summarize(mode: str, answers: Sequence[Answer]) -> Summary:
    """Add up the answers of one mode. tok_s: answer tokens per second of answering, one question at a time."""
    count = max(1, len(answers))
    total_s = sum(answer.total_s for answer in answers)
    tokens = sum(answer.tokens.answer for answer in answers)
    saved = sum(answer.tokens.prefill_saved for answer in answers)
    prompts = saved + sum(answer.tokens.prefill for answer in answers)
    return Summary(
        mode=mode,
        questions=len(answers),
        graphs=sum(answer.mode != "ar" for answer in answers),
        plan_s=sum(answer.plan_s for answer in answers) / count,
        total_s=total_s / count,
        answer_tokens=tokens,
        plan_tokens=sum(answer.tokens.plan for answer in answers),
        tok_s=tokens / total_s if total_s > 0 else 0.0,
        prefill_saved=saved / prompts if prompts else 0.0,
        faults=sum(answer.failed for answer in answers),
    )


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
