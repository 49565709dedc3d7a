"""What a gateway reads in the body of an OpenAI request, and the one key it adds for the backend.

Only the fields below are decoded; everything else passes as it came. A field of a wrong type is left for the backend
to refuse. Knows no HTTP.
"""

import msgspec
import orjson

__all__ = ["NotJson", "RequestBody", "body_text", "read_body", "with_usage"]

ASK_FOR_USAGE = b'"stream_options":{"include_usage":true}'


class NotJson(ValueError):
    """The body is not a JSON object."""


class RequestBody(msgspec.Struct):
    """The fields that decide how a request is queued, charged and streamed; limits are tokens."""

    model: str = ""
    user: str | None = None
    stream: bool | None = False
    n: int | None = 1
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    max_output_tokens: int | None = None
    stream_options: dict[str, object] | msgspec.UnsetType | None = msgspec.UNSET

    def most_output(self, default: int) -> int:
        """The most output tokens that the request may make; `default` where it names no limit."""
        limit = self.max_completion_tokens or self.max_tokens or self.max_output_tokens or default
        return max(limit, 0) * max(self.n or 1, 1)

    @property
    def asks_for_usage(self) -> bool:
        """Whether the client wants the usage chunk itself."""
        options = self.stream_options
        return isinstance(options, dict) and options.get("include_usage") is True


class _Texts(msgspec.Struct):
    messages: object = None
    prompt: object = None
    input: object = None


_BODY = msgspec.json.Decoder(RequestBody)
_TEXTS = msgspec.json.Decoder(_Texts)


def read_body(body: bytes) -> RequestBody:
    """Decode what matters. Raises NotJson for what no JSON parser takes, or for JSON that is no object."""
    try:
        return _BODY.decode(body)
    except msgspec.ValidationError as error:
        if not body.lstrip().startswith(b"{"):
            raise NotJson("a JSON value that is no object") from error
        return RequestBody()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NotJson(str(error)) from error


def with_usage(body: bytes, request: RequestBody) -> bytes:
    """The body with `stream_options.include_usage`; other bytes stay, unless the client gave stream options itself."""
    if request.stream_options is msgspec.UNSET:
        start = body.index(b"{") + 1
        comma = b"" if body[start:].lstrip().startswith(b"}") else b","
        return body[:start] + ASK_FOR_USAGE + comma + body[start:]
    values = orjson.loads(body)
    values["stream_options"] = {**(values["stream_options"] or {}), "include_usage": True}
    return orjson.dumps(values)


def body_text(body: bytes) -> str:
    """Every text of messages, prompt or input, one after another: what a tokenizer counts."""
    try:
        texts = _TEXTS.decode(body)
    except msgspec.DecodeError:
        return ""
    parts: list[str] = []
    for value in (texts.messages, texts.prompt, texts.input):
        _collect(value, parts)
    return "\n".join(parts)


def _collect(value: object, parts: list[str]) -> None:
    if isinstance(value, str):
        parts.append(value)
    elif isinstance(value, list):
        for item in value:
            _collect(item, parts)
    elif isinstance(value, dict):
        _collect(value.get("content"), parts)
        _collect(value.get("text"), parts)
