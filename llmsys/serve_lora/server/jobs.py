"""From a body to requests of the engine: who asks, which adapter, which prompts, how tokens are chosen.

What the API knows and we do not do is refused by name, never ignored. Knows nothing of HTTP or of adapters' files.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches

from llmsys.engine.errors import RequestError
from llmsys.engine.json_grammar import JsonMask, schema_of
from llmsys.engine.parts import TextCodec
from llmsys.engine.sequence import Request, SamplingParams
from llmsys.engine.tool_prompt import forced_schema, tool_messages
from llmsys.errors import Unavailable
from llmsys.serve_lora.batch_requests import sampling_of
from llmsys.serve_lora.server.bodies import AnswerBody
from llmsys.serve_lora.server.faults import ApiFault, not_found

__all__ = ["Job", "MakeMask", "adapter_of", "check_offered", "make_job"]

MakeMask = Callable[[Mapping[str, object], int], JsonMask]
UNLIMITED = 1 << 30
COMPLETION_TOKENS = 16
PROMPTS_MAX = 256
LONGEST_TOKEN = 64
NOT_DONE = {
    "best_of": "ask for n and choose",
    "suffix": "the models here continue text, they do not fill gaps",
    "functions": "it is the older name of tools",
}


@dataclass(frozen=True, slots=True)
class Job:
    """One HTTP request as the engine's requests: one per prompt. `texts` are the prompts to be echoed, or empty."""

    body: AnswerBody
    chat: bool
    tenant: str
    adapter: str | None
    requests: tuple[Request, ...]
    texts: tuple[str, ...] = ()


def adapter_of(model: str, base: Sequence[str], adapters: Sequence[str]) -> str | None:
    """The adapter that a model's name stands for, None for the base; `adapters` are those the client may see.

    Raises ApiFault 404 that names the closest.
    """
    if model in base:
        return None
    if model in adapters:
        return model
    close = get_close_matches(model, [*base, *adapters], n=1, cutoff=0.0)
    raise not_found(f"the model {model[:128]!r} does not exist; closest: {close[0]}")


def check_offered(body: AnswerBody, *, chat: bool) -> None:
    """Raise ApiFault for a parameter that is not done here, and for a body without a prompt."""
    for name, remedy in NOT_DONE.items():
        if getattr(body, name):
            raise ApiFault(400, f"{name} is not done here; {remedy}", code="unsupported_parameter", param=name)
    if chat and not body.messages:
        raise ApiFault(400, "messages is missing or empty; expected at least one", param="messages")
    if not chat and body.prompt in (None, "", ()):
        raise ApiFault(400, "prompt is missing or empty; expected text or token ids", param="prompt")
    if body.echo and (chat or body.logprobs is not None):
        raise ApiFault(400, "echo goes with a completion without logprobs", code="unsupported_parameter", param="echo")
    if body.tools and not chat:
        raise ApiFault(400, "tools go with a chat", code="unsupported_parameter", param="tools")
    if body.stream_options is not None and not body.stream:
        raise ApiFault(400, "stream_options goes with stream", param="stream_options")


def make_job(
    body: AnswerBody,
    *,
    chat: bool,
    tenant: str,
    adapter: str | None,
    tokenizer: TextCodec,
    max_len: int,
    cache_salt: str = "",
    masks: MakeMask | None = None,
) -> Job:
    """Tokenize the prompts and make the engine's requests; takes milliseconds per thousand tokens.

    masks: makes the grammar's mask of an answer, None where the model's tokenizer has no tables. Raises ApiFault for
    prompts that cannot fit and parameters out of range.
    """
    try:
        sampling = sampling_of(body, max_tokens=UNLIMITED if chat else COMPLETION_TOKENS, chat=chat)
        prompts = [_chat(body, tokenizer, max_len)] if chat else _prompts(body, tokenizer, max_len)
        held = [_held(sampling, body, masks, len(ids)) for ids in prompts]
    except (RequestError, ValueError, TypeError) as error:
        raise ApiFault(400, str(error), code="invalid_value") from error
    requests = tuple(
        Request(
            prompt=ids,
            sampling=choosing,
            adapter=adapter,
            tenant=tenant,
            priority=body.priority or 0,
            cache_salt=cache_salt,
        )
        for ids, choosing in zip(prompts, held, strict=True)
    )
    texts = tuple(tokenizer.decode(ids) for ids in prompts) if body.echo else ()
    return Job(body, chat, tenant, adapter, requests, texts)


def _held(sampling: SamplingParams, body: AnswerBody, masks: MakeMask | None, prompt_tokens: int) -> SamplingParams:
    """The same sampling, held to the call that is demanded or the body's response_format.

    Raises RequestError, ApiFault.
    """
    forced = forced_schema(body)
    schema, param = (forced, "tool_choice") if forced else (schema_of(body.response_format), "response_format")
    if schema is None:
        return sampling
    if masks is None or sampling.n > 1:
        remedy = "this model has no tokenizer tables for it" if masks is None else "one answer at a time; n is 1"
        raise ApiFault(400, f"{param} is not done here; {remedy}", code="unsupported_parameter", param=param)
    try:
        return replace(sampling, logits_processor=masks(schema, prompt_tokens))
    except Unavailable as error:
        raise ApiFault(400, str(error), code="unsupported_parameter", param=param) from error


def _chat(body: AnswerBody, tokenizer: TextCodec, max_len: int) -> list[int]:
    messages = tool_messages(body)
    _check_size(sum(len(message["content"]) for message in messages), max_len, "messages")
    return tokenizer.apply_chat(messages)


def _prompts(body: AnswerBody, tokenizer: TextCodec, max_len: int) -> list[list[int]]:
    given = body.prompt
    if isinstance(given, str):
        given = (given,)
    elif given and all(isinstance(item, int) for item in given):
        given = (tuple(item for item in given if isinstance(item, int)),)
    if not given or len(given) > PROMPTS_MAX:
        raise ApiFault(400, f"{len(given or ())} prompts; expected 1 to {PROMPTS_MAX}", param="prompt")
    found = []
    for item in given:
        if isinstance(item, int):
            raise ApiFault(400, "prompt mixes token ids with texts; expected one kind", param="prompt")
        if isinstance(item, str):
            _check_size(len(item), max_len, "prompt")
        found.append(tokenizer.encode(item) if isinstance(item, str) else list(item))
    return found


def _check_size(characters: int, max_len: int, param: str) -> None:
    """Refuse what cannot fit before it is tokenized: no token stands for more than 64 characters of real text."""
    if characters > max_len * LONGEST_TOKEN:
        raise ApiFault(
            400,
            f"{param} has {characters} characters, more than the model's {max_len} tokens can hold",
            code="context_length_exceeded",
            param=param,
        )
