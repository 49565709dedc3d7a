"""A filter: lines of requests in, the same bytes out in fair order.

A line is a trace record or an OpenAI batch request. Every line read is an arrival, every line written is served at once
and in full. Knows no clock and no memory: what is fair is the policy's, how far ahead it may look is the window's.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from llmsys.artifacts import decode_record, read_lines
from llmsys.errors import BadInput
from llmsys.fair_queue.policy import Policy, PolicySpecError, Request, RequestsPerMinute, TokensPerMinute

__all__ = ["order_lines"]

BYTES_PER_TOKEN = 4


class _Text(msgspec.Struct):
    text: str = ""


class _Message(msgspec.Struct):
    content: str | list[_Text] | None = None


class _Body(msgspec.Struct):
    messages: list[_Message] = []
    prompt: msgspec.Raw = msgspec.Raw(b"")
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    user: str | None = None


class _Line(msgspec.Struct):
    """Of either kind of line, what says whose it is and what it costs."""

    tenant: str | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    priority: int = 0
    group: str | None = None
    body: _Body | None = None


def order_lines(
    source: str | Path,
    policy: Policy,
    *,
    window: int = 10_000,
    default_max_tokens: int = 512,
    on_error: str = "fail",
    on_skip: Callable[[BadInput], None] | None = None,
) -> Iterator[bytes]:
    """Yield the lines of `source`, newline included, in the order in which `policy` serves them.

    At most `window` lines are held. A batch line without counts is taken as 4 bytes a token of prompt, and
    `default_max_tokens` where it sets no limit. Raises BadInput at FILE:LINE, or gives it to `on_skip`;
    PolicySpecError for a policy that refuses or delays.
    """
    if isinstance(policy, RequestsPerMinute | TokensPerMinute):
        raise PolicySpecError("a policy that refuses or delays requests cannot order lines; vtc, lcf, drr or fcfs can")
    pending: dict[str, bytes] = {}
    for request, line in _requests(source, default_max_tokens, on_skip if on_error == "skip" else _fail):
        policy.arrive(request, 0.0)
        pending[request.id] = line
        if len(pending) >= window:
            yield _serve_one(policy, pending)
    while pending:
        yield _serve_one(policy, pending)


def _serve_one(policy: Policy, pending: dict[str, bytes]) -> bytes:
    room = iter((True,))
    (request,) = policy.admit(0.0, lambda _: next(room, False))
    policy.tokens(request.id, request.max_tokens, 0.0)
    policy.finish(request.id, 0.0)
    return pending.pop(request.id)


def _fail(error: BadInput) -> None:
    raise error


def _requests(
    source: str | Path, default_max_tokens: int, on_skip: Callable[[BadInput], None] | None
) -> Iterator[tuple[Request, bytes]]:
    decoder = msgspec.json.Decoder(_Line)
    name = "<stdin>" if source == "-" else str(source)
    for number, line in read_lines(source):
        if not line or line.isspace():
            continue
        where = f"{name}:{number}"
        try:
            yield _request(decode_record(line, decoder, where), number, default_max_tokens, where), line + b"\n"
        except BadInput as error:
            if on_skip is not None:
                on_skip(error)


def _request(line: _Line, number: int, default_max_tokens: int, where: str) -> Request:
    body = line.body
    prompt, output = line.prompt_tokens, line.output_tokens
    if body is not None:
        limit = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
        output = (default_max_tokens if limit is None else limit) if output is None else output
        prompt = _prompt_bytes(body) // BYTES_PER_TOKEN if prompt is None else prompt
    if prompt is None or output is None:
        raise BadInput(where, "no token counts and no body", "a trace record or an OpenAI batch line")
    if prompt < 0 or output < 0:
        raise BadInput(where, f"{min(prompt, output)} tokens", "token counts of at least 0")
    tenant = line.tenant or (body.user if body is not None else None) or "default"
    return Request(str(number), tenant, prompt, output, group=line.group, priority=line.priority)


def _prompt_bytes(body: _Body) -> int:
    """Bytes of text in a body's prompt or messages, quotes of a plain prompt not counted."""
    total = max(len(bytes(body.prompt)) - 2, 0)
    for message in body.messages:
        content = message.content
        texts = [content] if isinstance(content, str) else [part.text for part in content or []]
        total += sum(len(text.encode()) for text in texts)
    return total
