"""Answers as the API writes them: one body, or server-sent events whose deltas put together are that body's text.

Knows nothing of sockets.
"""

import time
from collections.abc import AsyncGenerator
from uuid import uuid4

import msgspec

from llmsys.errors import LlmsysError
from llmsys.sgd_decode.answers import Answer
from llmsys.sgd_decode.glimpses import News
from llmsys.sgd_decode.records import completion_body
from llmsys.sgd_decode.server.bodies import AskBody
from llmsys.sgd_decode.server.faults import ApiFault

__all__ = ["Reply"]

DONE = b"data: [DONE]\n\n"


class Reply:
    """What all pieces of one answer share: its id, its time, its model, and what was asked for."""

    def __init__(self, body: AskBody, model: str) -> None:
        self._body = body
        self._model = model
        self._id = f"chatcmpl-{uuid4().hex}"
        self._created = int(time.time())

    def whole(self, answer: Answer) -> dict[str, object]:
        """The body of an answer that is not streamed. Raises ApiFault 502 for one that could not be written."""
        if answer.finish == "error":
            raise ApiFault(502, answer.fault, kind="server_error", code="backend")
        return completion_body(answer, self._model) | {"id": self._id, "created": self._created}

    async def events(self, updates: AsyncGenerator[News | Answer, None]) -> AsyncGenerator[bytes, None]:
        """The events of a stream, `[DONE]` last; a failure on the way is one `error` event."""
        yield self._chunk({"role": "assistant", "content": ""})
        try:
            async for update in updates:
                if isinstance(update, News):
                    yield self._chunk({"content": update.text}, **self._place(update))
                elif update.finish == "error":
                    yield _event(ApiFault(502, update.fault, kind="server_error", code="backend").body())
                else:
                    yield self._last(update)
                    if self._body.stream_options is not None and self._body.stream_options.include_usage:
                        yield self._frame([], usage=completion_body(update, self._model)["usage"])
        except LlmsysError as error:
            yield _event(ApiFault(503, str(error), kind="server_error", code="stopped").body())
        yield DONE

    def _place(self, news: News) -> dict[str, object]:
        """Which part a piece belongs to, where the client put that question."""
        if self._body.llmsys.stream == "order":
            return {}
        return {"llmsys": {"part": news.part, "title": news.title, "restart": news.restart}}

    def _last(self, answer: Answer) -> bytes:
        """The chunk that ends the text, with the graph."""
        choice = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": answer.finish}
        return self._frame([choice], llmsys=completion_body(answer, self._model)["llmsys"])

    def _chunk(self, delta: dict[str, str], **more: object) -> bytes:
        return self._frame([{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}], **more)

    def _frame(self, choices: list[dict[str, object]], **more: object) -> bytes:
        head = {"id": self._id, "object": "chat.completion.chunk", "created": self._created, "model": self._model}
        return _event({**head, "choices": choices, **more})


def _event(value: dict[str, object]) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"
