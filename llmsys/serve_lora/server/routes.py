"""The endpoints: an HTTP request in, a response out. Knows nothing of sockets, signals or how the engine works."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Send

from llmsys import __version__
from llmsys.engine.errors import EngineError
from llmsys.serve_lora.batch_requests import Refusal
from llmsys.serve_lora.server import bodies
from llmsys.serve_lora.server.access import json_response, service_of, tenant_of
from llmsys.serve_lora.server.faults import ApiFault, api_fault, forbidden
from llmsys.serve_lora.server.metrics import CONTENT_TYPE
from llmsys.serve_lora.server.service import Service
from llmsys.serve_lora.server.streaming import Frame, Tagged, chunks, whole_answer
from llmsys.serve_lora.server.tenants import ANYONE, Tenant

__all__ = [
    "Endpoint",
    "chat",
    "completion",
    "detokenize",
    "health",
    "metrics",
    "models",
    "ready",
    "tokenize",
    "version",
]

T = TypeVar("T")
Endpoint = Callable[[Request], Awaitable[Response]]
CLIENT_LEFT = 499


class _ClientLeft(Exception):
    """Nobody waits for the answer any more."""


class _EventStream(StreamingResponse):
    """Server-sent events, whose source is closed as soon as the client has left."""

    media_type = "text/event-stream"

    def __init__(self, source: AsyncGenerator[bytes, None], on_left: Callable[[], None]) -> None:
        super().__init__(source, headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        self._source = source
        self._on_left = on_left
        self._whole = False

    async def stream_response(self, send: Send) -> None:
        """Send all of it; the source ends here, whatever happens."""
        try:
            async with aclosing(self._source):
                await super().stream_response(send)
            self._whole = True
        finally:
            if not self._whole:
                self._on_left()


async def chat(request: Request) -> Response:
    """`POST /v1/chat/completions`."""
    return await _counted(request, chat=True)


async def completion(request: Request) -> Response:
    """`POST /v1/completions`."""
    return await _counted(request, chat=False)


async def models(request: Request) -> Response:
    """`GET /v1/models`: the base model, then the adapters that the client may see."""
    service = service_of(request)
    tenant = tenant_of(request)
    base = service.backend.names[0]
    resident = service.backend.pool.resident()
    known = {info.name: info for info in service.backend.registry.report(resident)}
    rows: list[dict[str, object]] = [_model(base, root=base)]
    for name in service.visible(tenant):
        info = known[name]
        rows.append(_model(name, root=info.path, parent=base, tier=info.tier, generation=info.generation))
    return json_response({"object": "list", "data": rows})


async def tokenize(request: Request) -> Response:
    """`POST /tokenize`: token ids of a text."""
    service = service_of(request)
    tenant_of(request)
    body = await bodies.read_body(request, bodies.TokenizeBody, limit=service.settings.max_body_bytes)
    tokens = await service.in_texts(lambda: service.backend.tokenizer.encode(body.prompt))
    return json_response({"count": len(tokens), "max_model_len": service.backend.max_len, "tokens": tokens})


async def detokenize(request: Request) -> Response:
    """`POST /detokenize`: the text of token ids."""
    service = service_of(request)
    tenant_of(request)
    body = await bodies.read_body(request, bodies.DetokenizeBody, limit=service.settings.max_body_bytes)
    if not all(0 <= token < service.backend.vocab_size for token in body.tokens):
        raise ApiFault(400, f"tokens outside 0 to {service.backend.vocab_size - 1}", param="tokens")
    return json_response({"prompt": await service.in_texts(lambda: service.backend.tokenizer.decode(body.tokens))})


async def health(request: Request) -> Response:
    """`GET /health`: 200 while the engine runs, 503 while it loads or has failed."""
    service: Service = request.app.state.service
    if not service.draining:
        service.backend  # noqa: B018 (raises)
    return json_response({"status": "ok"})


async def ready(request: Request) -> Response:
    """`GET /ready`: 200 when a request would be taken."""
    service_of(request).backend  # noqa: B018 (raises)
    return json_response({"status": "ready"})


async def version(_request: Request) -> Response:
    """`GET /version`."""
    return json_response({"version": __version__})


async def metrics(request: Request) -> Response:
    """`GET /metrics`; where there are keys it needs the operator's, as it names every tenant."""
    service = service_of(request)
    if tenant_of(request) is not ANYONE:
        raise forbidden("a tenant's key does not open the metrics of all tenants; expected LLMSYS_API_KEY's")
    return Response(service.metrics.text(), media_type=CONTENT_TYPE)


async def _counted(request: Request, *, chat: bool) -> Response:
    """An answer, counted by tenant and status."""
    service, name, status = service_of(request), ANYONE.name, 500
    try:
        tenant = tenant_of(request)
        name = tenant.name
        response = await _answer(request, tenant, chat=chat)
        status = response.status_code
        return response
    except ApiFault as fault:
        status = fault.status
        raise
    finally:
        service.metrics.requests.labels(service.metrics.label(name), str(status)).inc()


async def _answer(request: Request, tenant: Tenant, *, chat: bool) -> Response:
    """One chat or completion, streamed or whole; the engine stops working on it when the client leaves."""
    service = service_of(request)
    body = await bodies.read_body(request, bodies.AnswerBody, limit=service.settings.max_body_bytes)
    service.admit(tenant)
    job = await service.job(body, tenant, chat=chat)
    frame = Frame(job, service.backend.tokenizer.decode)
    events = service.events(job)
    try:
        if not body.stream:
            async with aclosing(events):
                answer = await _unless_left(request, whole_answer(frame, events))
                return json_response(
                    answer, headers=_cost_of(service, frame) if service.settings.records.cost_header else {}
                )
        first = await _unless_left(request, _first(events))
    except _ClientLeft:
        service.metrics.left.inc()
        return Response(status_code=CLIENT_LEFT)
    except (EngineError, Refusal) as error:
        raise api_fault(error, retry_after_s=service.retry_after_s) from error
    return _EventStream(chunks(frame, _resumed(first, events)), service.metrics.left.inc)


def _cost_of(service: Service, frame: Frame) -> dict[str, str]:
    """The header that says what a whole answer's device time costs."""
    seconds = sum(service.backend.meter.seconds_of(number) for number in frame.numbers)
    prices = service.settings.records.prices
    return {"x-llmsys-cost": f"{prices.of_device(seconds):.9f} {prices.currency}"}


async def _first(events: AsyncGenerator[Tagged, None]) -> Tagged:
    """Wait for the first event, so that what goes wrong before it has a status of its own."""
    return await anext(events)


async def _resumed(first: Tagged, events: AsyncGenerator[Tagged, None]) -> AsyncGenerator[Tagged, None]:
    """The events with the one that was taken out already; closing it closes them."""
    async with aclosing(events):
        yield first
        async for event in events:
            yield event


async def _unless_left(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The work's result. Raises _ClientLeft, the work cancelled, if the client is gone first."""

    async def left() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.create_task(work), asyncio.create_task(left())
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise _ClientLeft
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


def _model(name: str, *, root: str, parent: str | None = None, **more: object) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "llmsys", "root": root, "parent": parent, **more}
