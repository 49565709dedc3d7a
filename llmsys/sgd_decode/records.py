"""Questions in and answers out, as lines of the house: OpenAI batch lines, or {"id", "question"}.

Knows nothing of how answers are made.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import msgspec

from llmsys.artifacts import (
    BatchError,
    BatchRequest,
    BatchResponse,
    BatchResult,
    Span,
    read_records,
    write_chrome_trace,
)
from llmsys.errors import BadInput
from llmsys.sgd_decode.answers import Answer, Question
from llmsys.sgd_decode.prompting import said

__all__ = ["answer_line", "completion_body", "read_questions", "write_timeline"]

Name = Annotated[str, msgspec.Meta(min_length=1)]


class _Line(msgspec.Struct, frozen=True):
    """Either form of a line, told apart by which fields it has."""

    id: str | None = None
    question: str | None = None
    category: str = ""
    tenant: str = "default"
    custom_id: str | None = None


def read_questions(
    source: str | Path, *, on_error: str = "fail", on_skip: Callable[[BadInput], None] | None = None
) -> Iterator[Question]:
    """Yield the questions of a file, or of stdin for `-`. Raises BadInput for a line of neither form."""
    lines = read_records(source, msgspec.Raw, on_error=on_error, on_skip=on_skip, check=_fault)
    for number, raw in enumerate(lines):
        yield _question(number, bytes(raw))


def _fault(raw: msgspec.Raw) -> tuple[str, str] | None:
    right = 'a chat request of an OpenAI batch, or {"id": …, "question": …}'
    try:
        question = _question(0, bytes(raw))
    except (msgspec.ValidationError, ValueError) as error:
        return str(error), right
    empty = not any(message["content"].strip() for message in question.messages)
    return ("an empty question", right) if empty else None


def _question(number: int, raw: bytes) -> Question:
    line = msgspec.json.decode(raw, type=_Line)
    if line.question is not None:
        name = line.id or f"line-{number + 1}"
        return Question(number, name, [said("user", line.question)], line.tenant, line.category)
    request = msgspec.json.decode(raw, type=BatchRequest)
    if request.body.messages is None:
        raise ValueError("no messages")
    messages = [said(message.role, message.text) for message in request.body.messages]
    return Question(number, request.custom_id, messages, request.tenant_name, "", request.body.token_limit)


def answer_line(answer: Answer, model: str) -> BatchResult:
    """An answer as a line of a batch's output."""
    identity = f"sgd-{answer.question.number}"
    if answer.finish == "error":
        return BatchResult(identity, answer.question.id, None, BatchError("backend", answer.fault))
    body = completion_body(answer, model)
    return BatchResult(identity, answer.question.id, BatchResponse(200, identity, body), None)


def completion_body(answer: Answer, model: str) -> dict[str, object]:
    """An answer as the API's response object; the graph stands under `llmsys`."""
    tokens = answer.tokens
    written = tokens.plan + tokens.answer + tokens.dropped
    nodes = [{key: value for key, value in asdict(part).items() if key != "text"} for part in answer.parts]
    return {
        "id": f"sgd-{answer.question.number}",
        "object": "chat.completion",
        "model": model,
        "choices": [
            {"index": 0, "message": said("assistant", answer.text), "finish_reason": answer.finish, "logprobs": None}
        ],
        "usage": {
            "prompt_tokens": tokens.prefill + tokens.prefill_saved,
            "completion_tokens": written,
            "total_tokens": tokens.prefill + tokens.prefill_saved + written,
        },
        "llmsys": {
            "mode": answer.mode,
            "plan": {"nodes": nodes, "repairs": list(answer.plan.repairs)},
            "t_plan_s": answer.plan_s,
            "t_total_s": answer.total_s,
            "tokens": asdict(tokens),
            **_forecast(answer),
        },
    }


def _forecast(answer: Answer) -> dict[str, object]:
    known = answer.forecast
    if known is None:
        return {}
    return {
        "t_ar_est_s": known.ar_s,
        "lower_bound_s": known.lower_bound_s,
        "critical_path_tokens": known.critical_path_tokens,
    }


def write_timeline(path: Path, answers: Sequence[Answer]) -> None:
    """Write the plans and parts of answers as rows of a Chrome trace."""
    write_chrome_trace(path, [span for answer in answers for span in _spans(answer)])


def _spans(answer: Answer) -> Iterator[Span]:
    name, start_s = answer.question.id, answer.start_s
    yield Span("plan", f"{name} plan", start_s, answer.plan_s)
    for part in answer.parts:
        track = f"{name} part {part.id}"
        yield Span(
            part.title, track, start_s + part.start_s, max(0.0, part.end_s - part.start_s), {"tokens": part.tokens}
        )
