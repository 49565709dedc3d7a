"""Answers as the OpenAI batch API writes them: one result line per request, whole or with its error.

A batch has no server clock and no random names: `created` is 0 and ids come from the custom_id, so that the same input
gives the same bytes. Knows nothing of the engine but its token events.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import accumulate

from llmsys.artifacts import BatchError, BatchRequest, BatchResponse, BatchResult
from llmsys.engine import TokenEvent
from llmsys.serve_lora.batch_requests import CHAT_URL

__all__ = ["Answer", "Choice", "Usage", "refused_result"]

Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True, slots=True)
class Usage:
    """Prompt tokens of a request, and how many of them a cached prefix spared."""

    prompt_tokens: int = 0
    cached_tokens: int = 0

    def as_record(self, output_tokens: int) -> dict[str, object]:
        """The `usage` object of an answer."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": output_tokens,
            "total_tokens": self.prompt_tokens + output_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }


@dataclass(slots=True)
class Choice:
    """One of a request's answers while it grows."""

    text: list[str] = field(default_factory=list)
    events: list[TokenEvent] = field(default_factory=list)
    finish: str | None = None
    error: str | None = None

    def take(self, event: TokenEvent) -> None:
        """Add one event of the engine."""
        self.text.append(event.text)
        if event.token_id >= 0:
            self.events.append(event)
        self.finish = event.finish
        self.error = event.error or self.error


@dataclass(slots=True)
class Answer:
    """A request's choices while they grow, and the result line once the last has ended."""

    line: BatchRequest
    choices: list[Choice]

    def take(self, event: TokenEvent) -> bool:
        """Add one event of the engine; True once every choice has ended."""
        self.choices[event.index].take(event)
        return all(choice.finish is not None for choice in self.choices)

    def result(self, usage: Usage, decode: Decode) -> BatchResult:
        """The result line: the answer, or the first error of a choice. `decode` turns token ids into text."""
        failed = next((choice for choice in self.choices if choice.finish in ("error", "cancelled")), None)
        if failed is not None:
            return refused_result(self.line.custom_id, "engine_error", failed.error or str(failed.finish))
        name, chat = self.line.custom_id, self.line.url == CHAT_URL
        body: dict[str, object] = {
            "id": _identity("chatcmpl" if chat else "cmpl", name),
            "object": "chat.completion" if chat else "text_completion",
            "created": 0,
            "model": self.line.body.model,
            "choices": [_choice(at, choice, decode, chat=chat) for at, choice in enumerate(self.choices)],
            "usage": usage.as_record(sum(len(choice.events) for choice in self.choices)),
        }
        response = BatchResponse(status_code=200, request_id=_identity("req", name), body=body)
        return BatchResult(id=_identity("batch_req", name), custom_id=name, response=response, error=None)


def refused_result(custom_id: str, code: str, message: str) -> BatchResult:
    """The line of a request that did not run to its end: what kind of error, and the error."""
    error = BatchError(code=code, message=message)
    return BatchResult(id=_identity("batch_req", custom_id), custom_id=custom_id, response=None, error=error)


def _identity(kind: str, custom_id: str) -> str:
    return f"{kind}-{blake2b(custom_id.encode(), digest_size=12).hexdigest()}"


def _choice(index: int, choice: Choice, decode: Decode, *, chat: bool) -> dict[str, object]:
    text = "".join(choice.text)
    content: dict[str, object] = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
    scored = [event for event in choice.events if event.logprob is not None]
    logprobs = (_chat_logprobs if chat else _text_logprobs)(scored, decode) if scored else None
    return {"index": index, **content, "logprobs": logprobs, "finish_reason": choice.finish}


def _chat_logprobs(scored: list[TokenEvent], decode: Decode) -> dict[str, object]:
    def entry(token: int, logprob: float | None) -> dict[str, object]:
        text = decode([token])
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

    return {
        "content": [
            entry(event.token_id, event.logprob) | {"top_logprobs": [entry(*other) for other in event.top_logprobs]}
            for event in scored
        ]
    }


def _text_logprobs(scored: list[TokenEvent], decode: Decode) -> dict[str, object]:
    tokens = [decode([event.token_id]) for event in scored]
    return {
        "tokens": tokens,
        "token_logprobs": [event.logprob for event in scored],
        "top_logprobs": [{decode([token]): score for token, score in event.top_logprobs} for event in scored],
        "text_offset": list(accumulate(map(len, tokens[:-1]), initial=0)),
    }
