"""Lines of requests as columns: whose each is and what it costs, of trace records and OpenAI batch lines alike.

Whole blocks are decoded at once; where that fails, line by line, so that a fault has its place. Knows no order.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import msgspec

from llmsys.artifacts import decode_record, read_line_blocks
from llmsys.errors import BadInput

__all__ = ["RequestLines", "read_request_lines"]

BYTES_PER_TOKEN = 4


class _Text(msgspec.Struct, gc=False):
    text: str = ""


class _Message(msgspec.Struct, gc=False):
    content: str | list[_Text] | None = None


class _Body(msgspec.Struct, gc=False):
    messages: list[_Message] = []
    prompt: msgspec.Raw = msgspec.Raw(b"")
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    user: str | None = None


class _Line(msgspec.Struct, gc=False):
    """Of either kind of line, what says whose it is and what it costs."""

    tenant: str | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    priority: int = 0
    group: str | None = None
    ttft_slo_s: float | None = None
    prefix: tuple[int, ...] = ()
    body: _Body | None = None


class _Counts(msgspec.Struct, gc=False):
    """Of a trace record, what says whose it is and what it costs: decoding no more saves a third of the time."""

    tenant: str | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None


@dataclass(slots=True)
class RequestLines:
    """Some lines, newline included, and one entry per line in every column.

    `records` hold what else they say, where that was asked for.
    """

    lines: list[bytes]
    tenants: list[str]
    prompt_tokens: list[int]
    output_tokens: list[int]
    records: list[_Line] | None


def read_request_lines(
    source: str | Path, *, default_max_tokens: int, refuse: Callable[[BadInput], None], records: bool = True
) -> Iterator[RequestLines]:
    """Yield the lines of `source` in blocks; what is no request goes to `refuse` with its place, blank lines nowhere.

    With `records` they come with group, priority, prefix and limits. A batch line without counts is taken as 4 bytes a
    token of prompt, and `default_max_tokens` where it sets no limit.
    """
    name = "<stdin>" if source == "-" else str(source)
    decoder, slim = msgspec.json.Decoder(_Line), msgspec.json.Decoder(_Counts)
    for number, lines in read_line_blocks(source):
        found = _at_once(lines, decoder if records else slim)
        if found is None:
            found = _one_by_one(lines, decoder, name, number, default_max_tokens, refuse)
        yield found


def _at_once(
    lines: list[bytes], decoder: msgspec.json.Decoder[_Line] | msgspec.json.Decoder[_Counts]
) -> RequestLines | None:
    """A block of trace records; None if it holds anything else, or anything wrong."""
    text = b"\n".join(lines)
    if not text.isascii():
        return None
    try:
        records = cast("list[_Line]", decoder.decode_lines(text))
    except (msgspec.DecodeError, RecursionError):
        return None
    tenants = [record.tenant for record in records]
    prompt = [record.prompt_tokens for record in records]
    output = [record.output_tokens for record in records]
    if len(records) != len(lines) or None in prompt or None in output or not all(tenants):
        return None
    if min(cast("list[int]", prompt), default=0) < 0 or min(cast("list[int]", output), default=0) < 0:
        return None
    return RequestLines(
        [line + b"\n" for line in lines],
        cast("list[str]", tenants),
        cast("list[int]", prompt),
        cast("list[int]", output),
        records if decoder.type is _Line else None,
    )


def _one_by_one(
    lines: list[bytes],
    decoder: msgspec.json.Decoder[_Line],
    name: str,
    number: int,
    default_max_tokens: int,
    refuse: Callable[[BadInput], None],
) -> RequestLines:
    records: list[_Line] = []
    found = RequestLines([], [], [], [], records)
    for at, line in enumerate(lines, number):
        if not line or line.isspace():
            continue
        where = f"{name}:{at}"
        try:
            record = decode_record(line, decoder, where)
            prompt, output = _counts(record, default_max_tokens, where)
        except BadInput as error:
            refuse(error)
            continue
        body = record.body
        found.lines.append(line + b"\n")
        found.tenants.append(record.tenant or (body.user if body is not None else None) or "default")
        found.prompt_tokens.append(prompt)
        found.output_tokens.append(output)
        records.append(record)
    return found


def _counts(line: _Line, default_max_tokens: int, where: str) -> tuple[int, int]:
    """Prompt and output tokens of a line. Raises BadInput if it says neither, or fewer than 0."""
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
    return prompt, output


def _prompt_bytes(body: _Body) -> int:
    """Bytes of text in a body's prompt or messages, quotes of a plain prompt not counted."""
    total = max(len(bytes(body.prompt)) - 2, 0)
    for message in body.messages:
        content = message.content
        texts = [content] if isinstance(content, str) else [part.text for part in content or []]
        total += sum(len(text.encode()) for text in texts)
    return total
