"""The ASGI application: routes, endpoints, and the one place where faults become error objects.

Knows nothing of signals, or of how an answer is made.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import asdict

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Send

from llmsys.errors import LlmsysError
from llmsys.sgd_decode.answers import Answer
from llmsys.sgd_decode.glimpses import News
from llmsys.sgd_decode.server.bodies import mode_of, read_body
from llmsys.sgd_decode.server.faults import ApiFault
from llmsys.sgd_decode.server.replies import Reply
from llmsys.sgd_decode.server.service import Service

__all__ = ["make_app"]

LOG = logging.getLogger("llmsys.sgd_decode")
CLIENT_LEFT = 499


class _EventStream(StreamingResponse):
    """Server-sent events, whose source is closed as soon as the client has left."""

    media_type = "text/event-stream"

    def __init__(self, source: AsyncGenerator[bytes, None], updates: AsyncGenerator[News | Answer, None]) -> None:
        super().__init__(source, headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        self._source = source
        self._updates = updates

    async def stream_response(self, send: Send) -> None:
        """Send all of it; the question ends here, whatever happens."""
        async with aclosing(self._updates), aclosing(self._source):
            await super().stream_response(send)


def make_app(service: Service) -> Starlette:
    """The application around one service."""
    app = Starlette(
        routes=[
            Route("/v1/chat/completions", _chat, methods=["POST"]),
            Route("/v1/models", _models, methods=["GET"]),
            Route("/health", _health, methods=["GET"]),
            Route("/metrics", _metrics, methods=["GET"]),
        ],
        exception_handlers={ApiFault: _on_fault, HTTPException: _on_http, Exception: _on_error},
    )
    app.state.service = service
    return app


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


async def _chat(request: Request) -> Response:
    """`POST /v1/chat/completions`."""
    service = _service(request)
    service.admit(request.headers.get("authorization"))
    body = await read_body(request, limit=service.settings.max_body_bytes)
    mode = mode_of(request, body, service.settings.decode.mode)
    reply = Reply(body, service.settings.model)
    updates = service.answer(body, mode)
    if body.stream:
        return _EventStream(reply.events(updates), updates)
    async with aclosing(updates):
        answer = await _unless_left(request, updates)
    return Response(status_code=CLIENT_LEFT) if answer is None else _json(reply.whole(answer))


async def _models(request: Request) -> Response:
    """`GET /v1/models`."""
    model = _service(request).settings.model
    return _json({"object": "list", "data": [{"id": model, "object": "model", "created": 0, "owned_by": "llmsys"}]})


async def _health(request: Request) -> Response:
    """`GET /health`: 200 while questions are taken, 503 while the server stops."""
    if _service(request).draining:
        raise ApiFault(503, "the server stops", kind="server_error", code="stopping")
    return _json({"status": "ok"})


async def _metrics(request: Request) -> Response:
    """`GET /metrics`: counts in Prometheus' text form; among them prompt tokens that forks found in a cache."""
    service = _service(request)
    counted = asdict(service.room.tally)
    by_mode = counted.pop("answers")
    lines = [f'llmsys_sgd_answers_total{{mode="{mode}"}} {count}' for mode, count in sorted(by_mode.items())]
    lines += [f"llmsys_sgd_{name}_total {count}" for name, count in counted.items()]
    lines.append(f"llmsys_sgd_open {service.room.open}")
    return Response("\n".join(lines) + "\n", media_type="text/plain; version=0.0.4")


async def _unless_left(request: Request, updates: AsyncGenerator[News | Answer, None]) -> Answer | None:
    """The answer; None, and its question given up, if the client is gone first."""

    async def last() -> Answer:
        async for update in updates:
            if isinstance(update, Answer):
                return update
        raise ApiFault(503, "the server stops", kind="server_error", code="stopping")

    async def left() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    answering, leaving = asyncio.create_task(last()), asyncio.create_task(left())
    try:
        await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
        return answering.result() if answering.done() else None
    except LlmsysError as error:
        raise ApiFault(503, str(error), kind="server_error", code="stopped") from error
    finally:
        answering.cancel()
        leaving.cancel()
        await asyncio.gather(answering, leaving, return_exceptions=True)


def _json(value: object, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(value), status_code=status, headers=headers, media_type="application/json")


async def _on_fault(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiFault)
    headers = {} if error.retry_after_s is None else {"retry-after": str(error.retry_after_s)}
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return _json(error.body(), status=error.status, headers=headers)


async def _on_http(request: Request, error: Exception) -> Response:
    """A path or a method that is not there."""
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path[:200]}: {error.detail}"
    return await _on_fault(request, ApiFault(error.status_code, message, code="unknown_url"))


async def _on_error(request: Request, error: Exception) -> Response:
    """A fault of ours: the client hears that there was one, the log hears which."""
    LOG.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return await _on_fault(request, ApiFault(500, "the server failed; its log says how", kind="server_error"))
