"""The server behind every proxy of the bench: it costs as little as Python can, and streams at a fixed pace.

A body with `"stream": true` gets `CHUNKS` events `GAP_S` apart, any other POST one small JSON answer, and any GET an
empty JSON object, which is what health checks want. Knows no model.
"""

import asyncio

import httptools
import uvloop

__all__ = ["CHUNKS", "GAP_S", "REPLY", "STREAM_BYTES", "serve_answers"]

CHUNKS = 64
GAP_S = 0.002
_EVENT = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m","choices":'
    b'[{"index":0,"delta":{"content":" token"},"logprobs":null,"finish_reason":null}]}\n\n'
)
_USAGE = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m","choices":[],'
    b'"usage":{"prompt_tokens":12,"total_tokens":76,"completion_tokens":64}}\n\n'
)
_DONE = b"data: [DONE]\n\n"
REPLY = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":'
    b'{"role":"assistant","content":"token token token"},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":12,"total_tokens":15,"completion_tokens":3}}'
)
STREAM_BYTES = len(_EVENT) * CHUNKS + len(_DONE)
_JSON = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class _Answering(asyncio.Protocol):
    def __init__(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._body = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # uvloop's is no asyncio.Transport by class

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._body = b""

    def on_body(self, data: bytes) -> None:
        self._body += data

    def on_message_complete(self) -> None:
        assert self._transport is not None
        if self._parser.get_method() != b"POST":
            self._transport.write(_JSON % (2, b"{}"))
        elif b'"stream":true' in self._body.replace(b" ", b""):
            self._transport.write(_HEAD)
            asyncio.get_running_loop().call_later(GAP_S, self._next, CHUNKS)
        else:
            self._transport.write(_JSON % (len(REPLY), REPLY))

    def _next(self, left: int) -> None:
        if self._transport is None:
            return
        if left:
            self._transport.write(_chunk(_EVENT))
            asyncio.get_running_loop().call_later(GAP_S, self._next, left - 1)
        else:
            usage = _chunk(_USAGE) if b"include_usage" in self._body else b""
            self._transport.write(usage + _chunk(_DONE) + b"0\r\n\r\n")


def serve_answers(port: int) -> None:
    """Answer on 127.0.0.1 until the process is ended."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(_Answering, "127.0.0.1", port, backlog=1024)
        await server.serve_forever()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
