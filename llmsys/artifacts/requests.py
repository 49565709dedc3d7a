"""Requests with text: the lines of an OpenAI batch, in and out.

Two fields are the house's own: `tenant` and `arrival_s` at the top level (and `prompt_tokens`, where somebody counted).
Fields that are not named here are passed over; a named field of a wrong type does not fit. Knows no model and no limits
of sampling: which values an engine takes, the engine says.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import msgspec

from llmsys.artifacts.jsonl import read_records
from llmsys.artifacts.trace import Name, Seconds, Tokens
from llmsys.errors import BadInput

__all__ = [
    "BatchBody",
    "BatchError",
    "BatchRequest",
    "BatchResponse",
    "BatchResult",
    "CalledFunction",
    "ChatMessage",
    "ContentPart",
    "StreamOptions",
    "ToolCall",
    "ToolDeclaration",
    "ToolFunction",
    "read_requests",
]

CHAT_URL = "/v1/chat/completions"
COMPLETION_URL = "/v1/completions"
DEFAULT_TENANT = "default"


class ContentPart(msgspec.Struct, frozen=True, omit_defaults=True):
    """One part of a message; `text` for parts of type text, other types keep only their type."""

    type: str
    text: str = ""


class CalledFunction(msgspec.Struct, frozen=True):
    """Name and arguments of a call; the arguments are JSON in a string, as the model wrote them."""

    name: str
    arguments: str


class ToolCall(msgspec.Struct, frozen=True):
    """One call in an assistant's message."""

    id: str
    type: str
    function: CalledFunction


class ChatMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """One turn of a chat. `content` may be missing where the assistant only calls tools."""

    role: Name
    content: str | tuple[ContentPart, ...] | None = None
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None

    @property
    def text(self) -> str:
        """The content as one string. Raises ValueError for a part that is no text."""
        if isinstance(self.content, tuple):
            kinds = {part.type for part in self.content} - {"text"}
            if kinds:
                raise ValueError(f"content part of type {sorted(kinds)[0]!r}; expected text")
            return "".join(part.text for part in self.content)
        return self.content or ""


class ToolFunction(msgspec.Struct, frozen=True, omit_defaults=True):
    """A function that a model may call; `parameters` is its JSON schema."""

    name: Name
    description: str = ""
    parameters: dict[str, object] = msgspec.field(default_factory=dict)
    strict: bool | None = None


class ToolDeclaration(msgspec.Struct, frozen=True):
    """One entry of `tools`."""

    type: str
    function: ToolFunction


class StreamOptions(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a stream carries besides tokens."""

    include_usage: bool = False


class BatchBody(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body of a chat completion (`messages`) or a completion (`prompt`), with the parameters servers share.

    `prompt` is text, token ids, or several of either, never a mixture. `logprobs` is a switch in a chat and a count in
    a completion. None is "not said": the server's default holds. The last group of fields is what vLLM
    and SGLang add.
    """

    model: Name
    messages: tuple[ChatMessage, ...] | None = None
    prompt: str | tuple[str | int | tuple[int, ...], ...] | None = None
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    temperature: float | None = None
    top_p: float | None = None
    n: int | None = None
    seed: int | None = None
    stop: str | tuple[str, ...] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: bool | int | None = None
    top_logprobs: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    tools: tuple[ToolDeclaration, ...] | None = None
    tool_choice: str | dict[str, object] | None = None
    response_format: dict[str, object] | None = None
    echo: bool | None = None
    user: str | None = None

    top_k: int | None = None
    min_p: float | None = None
    min_tokens: Tokens | None = None
    repetition_penalty: float | None = None
    stop_token_ids: tuple[int, ...] | None = None
    ignore_eos: bool | None = None
    priority: int | None = None

    @property
    def token_limit(self) -> int | None:
        """`max_completion_tokens`, else its older name `max_tokens`."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


class BatchRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of a batch's input."""

    custom_id: Name
    method: Literal["POST"]
    url: Name
    body: BatchBody
    tenant: Name | None = None
    arrival_s: Seconds | None = None
    prompt_tokens: Tokens | None = None

    @property
    def tenant_name(self) -> str:
        """Whose request it is: `tenant`, else `body.user`, else "default"."""
        return self.tenant or self.body.user or DEFAULT_TENANT


class BatchResponse(msgspec.Struct, frozen=True):
    """What the server answered: the HTTP status and the API's response object."""

    status_code: int
    request_id: str
    body: dict[str, object]


class BatchError(msgspec.Struct, frozen=True):
    """Why there is no answer."""

    code: str
    message: str


class BatchResult(msgspec.Struct, frozen=True):
    """One line of a batch's output: `response` or `error`, the other one null."""

    id: str
    custom_id: str
    response: BatchResponse | None
    error: BatchError | None


def read_requests(
    source: str | Path, *, on_error: str = "fail", on_skip: Callable[[BadInput], None] | None = None
) -> Iterator[BatchRequest]:
    """Yield the requests of a batch file; custom_ids must differ. Raises as `read_records` does."""
    seen: set[str] = set()

    def unfit(request: BatchRequest) -> tuple[str, str] | None:
        fault = _prompt_fault(request)
        if fault is None and request.custom_id in seen:
            fault = f"custom_id {request.custom_id!r} a second time", "a custom_id of its own on every line"
        seen.add(request.custom_id)
        return fault

    return read_records(source, BatchRequest, on_error=on_error, on_skip=on_skip, check=unfit)


def _prompt_fault(request: BatchRequest) -> tuple[str, str] | None:
    """What is wrong with the prompt for this endpoint; what an endpoint that is not known needs is not judged."""
    if request.url == CHAT_URL and not request.body.messages:
        return f"no `$.body.messages` for {CHAT_URL}", "at least one message"
    if request.url == COMPLETION_URL and request.body.prompt is None:
        return f"no `$.body.prompt` for {COMPLETION_URL}", "a prompt"
    if request.body.messages is not None and request.body.prompt is not None:
        return "both `$.body.messages` and `$.body.prompt`", f"messages for {CHAT_URL} or a prompt for {COMPLETION_URL}"
    if isinstance(request.body.prompt, tuple) and len({type(part) for part in request.body.prompt}) > 1:
        return "a mixture in `$.body.prompt`", "strings, token ids, or lists of token ids"
    return None
