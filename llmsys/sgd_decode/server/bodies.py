"""Request bodies: read within a limit, decoded with their types, refused with the field that does not fit.

What the API knows and a graph of parts cannot do is refused by name, never ignored. Knows nothing of decoding.
"""

from collections.abc import Mapping
from typing import Literal

import msgspec
from starlette.requests import ClientDisconnect, Request

from llmsys.artifacts import BatchBody
from llmsys.sgd_decode.answers import Question
from llmsys.sgd_decode.prompting import said
from llmsys.sgd_decode.server.faults import ApiFault
from llmsys.sgd_decode.settings import MODES

__all__ = ["MODE_HEADER", "AskBody", "mode_of", "question_of", "read_body"]

MODE_HEADER = "x-llmsys-mode"
NOT_DONE = (
    *("prompt", "logprobs", "top_logprobs", "logit_bias", "tools", "tool_choice", "response_format", "echo"),
    *("top_p", "top_k", "min_p", "min_tokens", "repetition_penalty", "presence_penalty", "frequency_penalty"),
    *("stop_token_ids", "ignore_eos", "priority"),
)
"""Fields that a caller may name and that change nothing of how parts are written here."""
NEUTRAL: Mapping[str, object] = {"top_p": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0, "tools": ()}
"""Values of them that ask for nothing, which clients send by default."""


class Wishes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`body.llmsys`: the mode, and whether a stream is one text in order or parts as they come."""

    mode: str | None = None
    stream: Literal["order", "parts"] = "order"


class AskBody(BatchBody, frozen=True, omit_defaults=True):
    """A chat completion, with the house's own field."""

    llmsys: Wishes = Wishes()


async def read_body(request: Request, *, limit: int) -> AskBody:
    """The body. Raises ApiFault: 413 over `limit` bytes, 400 for what is no JSON, of other types or not done here."""
    pieces, size = [], 0
    try:
        async for piece in request.stream():
            size += len(piece)
            if size > limit:
                raise ApiFault(413, f"the body is over {limit} bytes", code="body_too_large")
            pieces.append(piece)
    except ClientDisconnect as error:
        raise ApiFault(400, "the body was cut off") from error
    try:
        body = msgspec.json.decode(b"".join(pieces), type=AskBody)
    except msgspec.ValidationError as error:
        raise ApiFault(400, str(error), code="invalid_type") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ApiFault(400, f"the body is no JSON: {error}", code="invalid_json") from error
    _check(body)
    return body


def mode_of(request: Request, body: AskBody, default: str) -> str:
    """The mode that the body asks for, else the header, else the server's.

    Raises ApiFault for one that is none, or that cannot do what else the body asks for.
    """
    mode = body.llmsys.mode or request.headers.get(MODE_HEADER) or default
    if mode not in MODES:
        raise ApiFault(400, f"mode {mode[:40]!r}; expected one of {', '.join(MODES)}", param="llmsys.mode")
    if body.stop and mode != "ar":
        raise ApiFault(400, f"stop is not done in mode {mode}, only in ar", code="unsupported_parameter", param="stop")
    return mode


def question_of(body: AskBody, number: int) -> Question:
    """The question that a body asks, as number so and so."""
    messages = [said(message.role, message.text) for message in body.messages or ()]
    stop = (body.stop,) if isinstance(body.stop, str) else body.stop or ()
    tenant = body.user or "default"
    return Question(number, f"ask-{number}", messages, tenant, max_tokens=body.token_limit, stop=stop)


def _check(body: AskBody) -> None:
    for name in NOT_DONE:
        value = getattr(body, name)
        if value is not None and value != NEUTRAL.get(name):
            raise ApiFault(400, f"{name} is not done here", code="unsupported_parameter", param=name)
    if body.n not in (None, 1):
        raise ApiFault(400, "n is not done here; ask again", code="unsupported_parameter", param="n")
    if body.temperature is not None and not 0 <= body.temperature <= 2:
        raise ApiFault(400, f"temperature {body.temperature}; expected 0 to 2", param="temperature")
    if body.stream_options is not None and not body.stream:
        raise ApiFault(400, "stream_options goes with stream", param="stream_options")
    try:
        texts = [message.text for message in body.messages or ()]
    except ValueError as error:
        raise ApiFault(400, str(error), param="messages") from error
    if not any(text.strip() for text in texts):
        raise ApiFault(400, "messages say nothing; expected a question", param="messages")
