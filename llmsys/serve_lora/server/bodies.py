"""Request bodies: read within a limit, decoded with their types, refused with the field that does not fit.

Knows nothing of models.
"""

from typing import TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request

from llmsys.artifacts import BatchBody
from llmsys.serve_lora.server.faults import ApiFault

__all__ = ["AnswerBody", "DetokenizeBody", "LoadBody", "TokenizeBody", "UnloadBody", "read_body"]

T = TypeVar("T")


class AnswerBody(BatchBody, frozen=True, omit_defaults=True):
    """A chat or a completion, with the parameters that are known only to be refused."""

    best_of: int | None = None
    suffix: str | None = None
    functions: list[dict[str, object]] | None = None
    include_stop_str_in_output: bool = False


class LoadBody(msgspec.Struct, frozen=True):
    """`POST /v1/load_lora_adapter`, with vLLM's names."""

    lora_name: str
    lora_path: str
    load_inplace: bool = False


class UnloadBody(msgspec.Struct, frozen=True):
    """`POST /v1/unload_lora_adapter`."""

    lora_name: str


class TokenizeBody(msgspec.Struct, frozen=True):
    """`POST /tokenize`."""

    prompt: str


class DetokenizeBody(msgspec.Struct, frozen=True):
    """`POST /detokenize`."""

    tokens: list[int]


async def read_body(request: Request, kind: type[T], *, limit: int) -> T:
    """The body as a `kind`. Raises ApiFault: 413 over `limit` bytes, 400 for what is no JSON or of other types."""
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > limit:
        raise _too_large(limit)
    pieces, size = [], 0
    try:
        async for piece in request.stream():
            size += len(piece)
            if size > limit:
                raise _too_large(limit)
            pieces.append(piece)
    except ClientDisconnect as error:
        raise ApiFault(400, "the body was cut off") from error
    try:
        return msgspec.json.decode(b"".join(pieces), type=kind)
    except msgspec.ValidationError as error:
        raise ApiFault(400, str(error), code="invalid_type", param=_field(str(error))) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ApiFault(400, f"the body is no JSON: {error}", code="invalid_json") from error


def _too_large(limit: int) -> ApiFault:
    return ApiFault(413, f"the body is over {limit} bytes", code="body_too_large")


def _field(message: str) -> str | None:
    """The field that msgspec's message is about.

    >>> _field("Expected `int`, got `str` - at `$.n`")
    'n'
    """
    found = message.rpartition("`$.")[2]
    return found.removesuffix("`") if found != message else None
