"""Answers as they come: server-sent events whose data are the API's chunks, and whole answers from the same events.

Every token is in exactly one chunk. Knows nothing of sockets.
"""

import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias
from uuid import uuid4

import msgspec

from llmsys.engine.completion import Collector
from llmsys.engine.errors import EngineError
from llmsys.engine.outputs import Completion
from llmsys.engine.sequence import Finish, TokenEvent
from llmsys.engine.tool_prompt import forced_schema, offers_tools
from llmsys.serve_lora.batch_results import chat_token, choice_body, usage_body
from llmsys.serve_lora.server.faults import ApiFault, api_fault
from llmsys.serve_lora.server.jobs import Job
from llmsys.serve_lora.server.tool_text import ToolText

__all__ = ["Frame", "Tagged", "chunks", "whole_answer"]

Decode = Callable[[Sequence[int]], str]
Tagged = tuple[int, TokenEvent]
"""An event, and the number of the prompt that it answers."""

End: TypeAlias = Finish | Literal["tool_calls"]
DONE = b"data: [DONE]\n\n"
ENDED_BADLY = ("error", "cancelled")


@dataclass(slots=True)
class Frame:
    """What all chunks of one answer share: id, time of creation, model; and how far each choice has come."""

    job: Job
    decode: Decode
    id: str = ""
    created: int = field(default_factory=lambda: int(time.time()))
    numbers: set[int] = field(default_factory=set)
    _offsets: Counter[int] = field(default_factory=Counter)
    _tools: dict[int, ToolText] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.id = self.id or f"{'chatcmpl' if self.job.chat else 'cmpl'}-{uuid4().hex}"

    def index(self, prompt: int, event: TokenEvent) -> int:
        """The choice's number in the answer: all choices of the first prompt, then those of the second."""
        return prompt * self.job.requests[0].sampling.n + event.index

    def chunk(self, choices: list[dict[str, object]], **more: object) -> bytes:
        """One event of the stream."""
        kind = "chat.completion.chunk" if self.job.chat else "text_completion"
        return _event(
            {"id": self.id, "object": kind, "created": self.created, "model": self.job.body.model, "choices": choices}
            | more
        )

    def opening(self) -> list[bytes]:
        """What comes before the first token: the role of a chat's choices, the prompts that are echoed."""
        n = self.job.requests[0].sampling.n
        choices = range(n * len(self.job.requests))
        if self.job.chat:
            delta = {"role": "assistant", "content": ""}
            return [
                self.chunk([{"index": at, "delta": delta, "logprobs": None, "finish_reason": None}]) for at in choices
            ]
        return [
            self.chunk([{"index": at, "text": self.job.texts[at // n], "logprobs": None, "finish_reason": None}])
            for at in (choices if self.job.texts else ())
        ]

    def token(self, prompt: int, event: TokenEvent) -> bytes | None:
        """The chunk of one event, None where it has nothing to say yet."""
        scored = event.logprob is not None
        at = self.index(prompt, event)
        said: dict[str, object] = {"text": event.text}
        finish: End | None = event.finish
        is_new = bool(event.text)
        if self.job.chat:
            delta, finish = self._delta(at, event)
            said, is_new = {"delta": delta}, bool(delta)
        if not (is_new or finish or scored):
            return None
        logprobs = self._logprobs(at, event) if scored else None
        return self.chunk([{"index": at, **said, "logprobs": logprobs, "finish_reason": finish}])

    def _delta(self, at: int, event: TokenEvent) -> tuple[dict[str, object], End | None]:
        """What an event adds to a chat's choice, and why the choice ends if it does."""
        if not offers_tools(self.job.body):
            return ({"content": event.text} if event.text else {}), event.finish
        text = self._tools.setdefault(at, _tool_text(self.job))
        first = len(text.calls)
        content, calls = text.push(event.text)
        if event.finish:
            rest, more = text.flush()
            content, calls = content + rest, [*calls, *more]
        delta: dict[str, object] = {"content": content} if content else {}
        if calls:
            delta["tool_calls"] = [{"index": first + i, **call.as_record()} for i, call in enumerate(calls)]
        return delta, _finish(event.finish, text)

    def _logprobs(self, at: int, event: TokenEvent) -> dict[str, object]:
        logprob = event.logprob or 0.0
        if self.job.chat:
            return {"content": [chat_token(event.token_id, logprob, event.top_logprobs, self.decode)]}
        text = self.decode([event.token_id])
        offset = self._offsets[at]
        self._offsets[at] += len(text)
        tops = {self.decode([token]): score for token, score in event.top_logprobs}
        return {"tokens": [text], "token_logprobs": [logprob], "top_logprobs": [tops], "text_offset": [offset]}


async def chunks(frame: Frame, events: AsyncGenerator[Tagged, None]) -> AsyncGenerator[bytes, None]:
    """The events of a stream, `[DONE]` last; a failure on the way is one `error` event."""
    usage = _Usage()
    for chunk in frame.opening():
        yield chunk
    try:
        async for prompt, event in events:
            if event.finish in ENDED_BADLY:
                raise EngineError(event.error or str(event.finish))
            usage.add(prompt, event)
            if (chunk_bytes := frame.token(prompt, event)) is not None:
                yield chunk_bytes
        options = frame.job.body.stream_options
        if options is not None and options.include_usage:
            yield frame.chunk([], usage=usage.as_record())
    except EngineError as error:
        yield _event(api_fault(error, retry_after_s=1.0).body())
    yield DONE


async def whole_answer(frame: Frame, events: AsyncIterator[Tagged]) -> dict[str, object]:
    """The answer when all is there; `frame.numbers` are then the engine's requests. ApiFault 500 where one failed."""
    collector = Collector()
    by_prompt: dict[int, list[Completion]] = {}
    async for prompt, event in events:
        frame.numbers.add(event.request_id)
        for completion in collector.take([event]):
            if completion.finish in ENDED_BADLY:
                message = completion.error or completion.finish
                raise ApiFault(500, message, kind="server_error", code="engine_error")
            by_prompt.setdefault(prompt, []).append(completion)
    job = frame.job
    choices: list[dict[str, object]] = []
    usage = _Usage()
    for prompt, completions in sorted(by_prompt.items()):
        ordered = sorted(completions, key=lambda completion: completion.index)
        usage.add_whole(usage_body(ordered))
        for completion in ordered:
            body = choice_body(completion, frame.decode, chat=job.chat)
            body["index"] = len(choices)
            if offers_tools(job.body):
                body |= _with_calls(completion, job)
            if job.texts:
                body["text"] = job.texts[prompt] + completion.text
            choices.append(body)
    kind = "chat.completion" if job.chat else "text_completion"
    return {
        "id": frame.id,
        "object": kind,
        "created": frame.created,
        "model": job.body.model,
        "choices": choices,
        "usage": usage.as_record(),
    }


def _tool_text(job: Job) -> ToolText:
    """What finds the calls in one of a job's answers."""
    return ToolText(forced=forced_schema(job.body) is not None)


def _with_calls(completion: Completion, job: Job) -> dict[str, object]:
    """Message and end of a choice whose text may hold calls."""
    text = _tool_text(job)
    content = text.push(completion.text)[0] + text.flush()[0]
    message: dict[str, object] = {"role": "assistant", "content": content if content.strip() else None}
    if text.calls:
        message["tool_calls"] = [call.as_record() for call in text.calls]
    return {"message": message, "finish_reason": _finish(completion.finish, text)}


def _finish(finish: Finish | None, text: ToolText) -> End | None:
    return "tool_calls" if finish == "stop" and text.calls else finish


class _Usage:
    """Tokens of an answer: each prompt once, every output token."""

    def __init__(self) -> None:
        self._prompts: dict[int, tuple[int, int]] = {}
        self._output = 0

    def add(self, prompt: int, event: TokenEvent) -> None:
        self._output += event.token_id >= 0
        if event.finish is not None and (event.index == 0 or prompt not in self._prompts):
            self._prompts[prompt] = (event.prompt_tokens, event.cached_tokens)

    def add_whole(self, usage: dict[str, object]) -> None:
        details = msgspec.convert(usage, _UsageRecord)
        self._prompts[len(self._prompts)] = (details.prompt_tokens, details.prompt_tokens_details.cached_tokens)
        self._output += details.completion_tokens

    def as_record(self) -> dict[str, object]:
        prompt = sum(tokens for tokens, _ in self._prompts.values())
        return {
            "prompt_tokens": prompt,
            "completion_tokens": self._output,
            "total_tokens": prompt + self._output,
            "prompt_tokens_details": {"cached_tokens": sum(cached for _, cached in self._prompts.values())},
        }


class _Cached(msgspec.Struct):
    cached_tokens: int


class _UsageRecord(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int
    prompt_tokens_details: _Cached


def _event(value: dict[str, object]) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"
