"""Answers as the OpenAI batch API writes them: one result line per request, whole or with its error.

A batch has no server clock and no random names: `created` is 0 and ids come from the custom_id, so that the same input
gives the same bytes. Knows nothing of the engine but its completions.
"""

from collections.abc import Callable, Sequence
from hashlib import blake2b
from itertools import accumulate

from llmsys.artifacts import BatchError, BatchRequest, BatchResponse, BatchResult
from llmsys.engine.outputs import Completion
from llmsys.serve_lora.batch_requests import CHAT_URL

__all__ = ["answer_result", "chat_token", "choice_body", "refused_result", "usage_body"]

Decode = Callable[[Sequence[int]], str]


def answer_result(line: BatchRequest, choices: Sequence[Completion], decode: Decode) -> BatchResult:
    """The result line of a request whose choices have all ended, or its error line if one of them failed.

    `decode` turns token ids into text, for log-probabilities.
    """
    failed = next((choice for choice in choices if choice.finish in ("error", "cancelled")), None)
    if failed is not None:
        return refused_result(line.custom_id, "engine_error", failed.error or failed.finish)
    name, chat = line.custom_id, line.url == CHAT_URL
    body: dict[str, object] = {
        "id": _identity("chatcmpl" if chat else "cmpl", name),
        "object": "chat.completion" if chat else "text_completion",
        "created": 0,
        "model": line.body.model,
        "choices": [choice_body(choice, decode, chat=chat) for choice in sorted(choices, key=lambda c: c.index)],
        "usage": usage_body(choices),
    }
    response = BatchResponse(status_code=200, request_id=_identity("req", name), body=body)
    return BatchResult(id=_identity("batch_req", name), custom_id=name, response=response, error=None)


def refused_result(custom_id: str, code: str, message: str) -> BatchResult:
    """The line of a request that did not run to its end: what kind of error, and the error."""
    error = BatchError(code=code, message=message)
    return BatchResult(id=_identity("batch_req", custom_id), custom_id=custom_id, response=None, error=error)


def _identity(kind: str, custom_id: str) -> str:
    return f"{kind}-{blake2b(custom_id.encode(), digest_size=12).hexdigest()}"


def usage_body(choices: Sequence[Completion]) -> dict[str, object]:
    """Tokens of one request: its prompt once, the output of all its choices."""
    prompt_tokens = choices[0].prompt_tokens
    output_tokens = sum(len(choice.token_ids) for choice in choices)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": output_tokens,
        "total_tokens": prompt_tokens + output_tokens,
        "prompt_tokens_details": {"cached_tokens": choices[0].cached_tokens},
    }


def choice_body(choice: Completion, decode: Decode, *, chat: bool) -> dict[str, object]:
    """One choice of an answer, a chat's or a completion's."""
    text = {"message": {"role": "assistant", "content": choice.text}} if chat else {"text": choice.text}
    logprobs = (_chat_logprobs if chat else _text_logprobs)(choice, decode) if choice.logprobs else None
    return {"index": choice.index, **text, "logprobs": logprobs, "finish_reason": choice.finish}


def chat_token(token: int, logprob: float, others: Sequence[tuple[int, float]], decode: Decode) -> dict[str, object]:
    """One token of a chat's log-probabilities, with its alternatives."""

    def entry(token: int, logprob: float) -> dict[str, object]:
        text = decode([token])
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

    return entry(token, logprob) | {"top_logprobs": [entry(*other) for other in others]}


def _chat_logprobs(choice: Completion, decode: Decode) -> dict[str, object]:
    scored = zip(choice.token_ids, choice.logprobs, choice.top_logprobs, strict=True)
    return {"content": [chat_token(*one, decode) for one in scored]}


def _text_logprobs(choice: Completion, decode: Decode) -> dict[str, object]:
    tokens = [decode([token]) for token in choice.token_ids]
    return {
        "tokens": tokens,
        "token_logprobs": list(choice.logprobs),
        "top_logprobs": [{decode([token]): score for token, score in others} for others in choice.top_logprobs],
        "text_offset": list(accumulate(map(len, tokens[:-1]), initial=0)),
    }
