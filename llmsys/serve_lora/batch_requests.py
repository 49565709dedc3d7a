"""Lines of an OpenAI batch as requests of the engine, or the error that says why one cannot run.

Knows nothing of the engine's state: names in, a `Request` out. What the batch API knows and we do not do is refused by
name, never ignored.
"""

from collections.abc import Collection
from dataclasses import dataclass
from difflib import get_close_matches

from llmsys.artifacts import BatchBody, BatchRequest
from llmsys.engine.errors import EngineError
from llmsys.engine.sequence import Request, SamplingParams

__all__ = ["CHAT_URL", "COMPLETION_URL", "Catalogue", "Refusal", "chat_messages", "engine_request", "sampling_of"]

CHAT_URL = "/v1/chat/completions"
COMPLETION_URL = "/v1/completions"
# parameters that the engine takes under the API's own name
PASSED_ON = (
    "temperature",
    "top_p",
    "n",
    "seed",
    "stop",
    "presence_penalty",
    "frequency_penalty",
    "top_k",
    "min_p",
    "min_tokens",
    "repetition_penalty",
    "stop_token_ids",
    "ignore_eos",
)
# what a batch here cannot do, and what to do instead
NOT_DONE = {
    "stream": "a batch answers with whole lines",
    "echo": "put the prompt beside the answer by custom_id",
    "tools": "`llmsys tool-serve run` takes lines with tools",
    "response_format": "an adapter made with `adapters make --task json` writes JSON",
}


class Refusal(Exception):
    """Why a line cannot run: the code and message of its error line. Never reaches a user as an exception."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Names a request's `model` may carry: those of the base model and those of the adapters."""

    base: Collection[str]
    adapters: Collection[str]

    def adapter_of(self, model: str) -> str | None:
        """The adapter a name stands for, None for the base. Raises Refusal that names the closest."""
        if model in self.adapters:
            return model
        if model in self.base:
            return None
        known = sorted({*self.base, *self.adapters})
        close = get_close_matches(model, known, n=1, cutoff=0.0)
        raise Refusal("model_not_found", f"no model {model!r}; closest: {close[0]}; all: {', '.join(known)}")


def engine_request(line: BatchRequest, catalogue: Catalogue, *, max_tokens: int) -> Request:
    """The request a batch line asks for; `max_tokens` is for lines that name no limit.

    Raises Refusal for an unknown URL or model, a prompt that is no text, and parameters out of range or not done here.
    """
    if line.url not in (CHAT_URL, COMPLETION_URL):
        raise Refusal("invalid_url", f"no endpoint {line.url}; expected {CHAT_URL} or {COMPLETION_URL}")
    for name, remedy in NOT_DONE.items():
        if getattr(line.body, name):
            raise Refusal("unsupported_parameter", f"{name} is not done in a batch; {remedy}")
    try:
        return Request(
            prompt=_prompt(line),
            sampling=sampling_of(line.body, max_tokens=max_tokens, chat=line.url == CHAT_URL),
            adapter=catalogue.adapter_of(line.body.model),
            tenant=line.tenant_name,
            priority=line.body.priority or 0,
            id=line.custom_id,
        )
    except (EngineError, ValueError) as error:
        raise Refusal("invalid_request", str(error)) from error


def _prompt(line: BatchRequest) -> str | list[int] | list[dict[str, str]]:
    if line.url == CHAT_URL:
        return chat_messages(line.body)
    prompt = line.body.prompt
    if isinstance(prompt, str):
        return prompt
    ids = [item for item in prompt or () if isinstance(item, int)]
    if not ids or len(ids) != len(prompt or ()):
        raise ValueError("prompt is a list of prompts, or empty; expected one prompt per line, text or token ids")
    return ids


def chat_messages(body: BatchBody) -> list[dict[str, str]]:
    """The turns of a chat as a template takes them. Raises ValueError for a part that is no text."""
    return [{"role": message.role, "content": message.text} for message in body.messages or ()]


def sampling_of(body: BatchBody, *, max_tokens: int, chat: bool) -> SamplingParams:
    """How a body wants its tokens chosen, at most `max_tokens` where it names no limit.

    Raises RequestError or ValueError for a parameter out of range.
    """
    given = {name: value for name in PASSED_ON if (value := getattr(body, name)) is not None}
    limit = body.token_limit
    bias = {_token_id(token): value for token, value in (body.logit_bias or {}).items()}
    return SamplingParams(
        max_tokens=max_tokens if limit is None else limit,
        logprobs=_alternatives(body, chat=chat),
        logit_bias=bias,
        **given,
    )


def _alternatives(body: BatchBody, *, chat: bool) -> int | None:
    """How many alternatives to report per token: a chat has a switch and a count, a completion the count alone."""
    if chat:
        return (body.top_logprobs or 0) if body.logprobs else None
    return None if body.logprobs is None else int(body.logprobs)


def _token_id(text: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"logit_bias has the key {text!r}; expected a token id")
    return int(text)
