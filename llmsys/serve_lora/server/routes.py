"""The endpoints: an HTTP request in, a response out. Knows nothing of sockets, signals or how the engine works."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Send

from llmsys import __version__
from llmsys.engine.errors import AdapterError, EngineError
from llmsys.serve_lora.batch_requests import Refusal
from llmsys.serve_lora.server import bodies
from llmsys.serve_lora.server.faults import ApiFault, api_fault, forbidden, not_found
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
    "load",
    "lora_adapters",
    "metrics",
    "models",
    "ready",
    "tokenize",
    "unload",
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
    service = _service(request)
    tenant = _tenant(request)
    base = service.backend.names[0]
    resident = service.backend.pool.resident()
    known = {info.name: info for info in service.backend.registry.report(resident)}
    rows: list[dict[str, object]] = [_model(base, root=base)]
    for name in service.visible(tenant):
        info = known[name]
        rows.append(_model(name, root=info.path, parent=base, tier=info.tier, generation=info.generation))
    return _json({"object": "list", "data": rows})


async def lora_adapters(request: Request) -> Response:
    """`GET /v1/lora_adapters`: what is known of each adapter that the client may see."""
    service = _service(request)
    tenant = _tenant(request)
    infos = service.backend.registry.report(service.backend.pool.resident())
    return _json({"object": "list", "data": [info for info in infos if tenant.may_use(info.name)]})


async def load(request: Request) -> Response:
    """`POST /v1/load_lora_adapter`: a directory below the adapters directory, under a name."""
    service = _operator(request)
    body = await bodies.read_body(request, bodies.LoadBody, limit=service.settings.max_body_bytes)
    try:
        await service.backend.registry.load(body.lora_name, body.lora_path, replace=body.load_inplace)
    except PermissionError as error:
        raise forbidden(str(error)) from error
    except ValueError as error:
        raise ApiFault(400, str(error), code="invalid_value", param="lora_name") from error
    except AdapterError as error:
        raise api_fault(error, retry_after_s=1.0) from error
    return _json({"status": "ok", "lora_name": body.lora_name})


async def unload(request: Request) -> Response:
    """`POST /v1/unload_lora_adapter`: forget a name; requests under way end on it."""
    service = _operator(request)
    body = await bodies.read_body(request, bodies.UnloadBody, limit=service.settings.max_body_bytes)
    try:
        await service.backend.registry.unload(body.lora_name)
    except KeyError as error:
        raise not_found(f"the adapter {body.lora_name[:128]!r} does not exist", param="lora_name") from error
    return _json({"status": "ok", "lora_name": body.lora_name})


async def tokenize(request: Request) -> Response:
    """`POST /tokenize`: token ids of a text."""
    service = _service(request)
    _tenant(request)
    body = await bodies.read_body(request, bodies.TokenizeBody, limit=service.settings.max_body_bytes)
    tokens = await service.in_texts(lambda: service.backend.tokenizer.encode(body.prompt))
    return _json({"count": len(tokens), "max_model_len": service.backend.max_len, "tokens": tokens})


async def detokenize(request: Request) -> Response:
    """`POST /detokenize`: the text of token ids."""
    service = _service(request)
    _tenant(request)
    body = await bodies.read_body(request, bodies.DetokenizeBody, limit=service.settings.max_body_bytes)
    if not all(0 <= token < service.backend.vocab_size for token in body.tokens):
        raise ApiFault(400, f"tokens outside 0 to {service.backend.vocab_size - 1}", param="tokens")
    return _json({"prompt": await service.in_texts(lambda: service.backend.tokenizer.decode(body.tokens))})


async def health(request: Request) -> Response:
    """`GET /health`: 200 while the engine runs, 503 while it loads or has failed."""
    service: Service = request.app.state.service
    if not service.draining:
        service.backend  # noqa: B018 (raises)
    return _json({"status": "ok"})


async def ready(request: Request) -> Response:
    """`GET /ready`: 200 when a request would be taken."""
    _service(request).backend  # noqa: B018 (raises)
    return _json({"status": "ready"})


async def version(_request: Request) -> Response:
    """`GET /version`."""
    return _json({"version": __version__})


async def metrics(request: Request) -> Response:
    """`GET /metrics`; where there are keys it needs the operator's, as it names every tenant."""
    service = _service(request)
    if _tenant(request) is not ANYONE:
        raise forbidden("a tenant's key does not open the metrics of all tenants; expected LLMSYS_API_KEY's")
    return Response(service.metrics.text(), media_type=CONTENT_TYPE)


async def _counted(request: Request, *, chat: bool) -> Response:
    """An answer, counted by tenant and status."""
    service, name, status = _service(request), ANYONE.name, 500
    try:
        tenant = _tenant(request)
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
    service = _service(request)
    body = await bodies.read_body(request, bodies.AnswerBody, limit=service.settings.max_body_bytes)
    service.admit(tenant)
    job = await service.job(body, tenant, chat=chat)
    frame = Frame(job, service.backend.tokenizer.decode)
    events = service.events(job)
    try:
        if not body.stream:
            async with aclosing(events):
                return _json(await _unless_left(request, whole_answer(frame, events)))
        first = await _unless_left(request, _first(events))
    except _ClientLeft:
        service.metrics.left.inc()
        return Response(status_code=CLIENT_LEFT)
    except (EngineError, Refusal) as error:
        raise api_fault(error, retry_after_s=service.retry_after_s) from error
    return _EventStream(chunks(frame, _resumed(first, events)), service.metrics.left.inc)


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


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _tenant(request: Request) -> Tenant:
    service = _service(request)
    tenant = service.tenant(request.headers.get("authorization"))
    service.backend  # noqa: B018 (raises before anything of the request is read)
    return tenant


def _operator(request: Request) -> Service:
    """The service, for those who may change it. Raises ApiFault 401, 403."""
    service = _service(request)
    tenant = _tenant(request)
    if not service.settings.runtime_adapters:
        raise forbidden("adapters are not loaded by requests here; start the server with --allow-runtime-adapters")
    if tenant is not ANYONE:
        raise forbidden("a tenant's key does not change the adapters of all tenants; expected LLMSYS_API_KEY's")
    return service


def _model(name: str, *, root: str, parent: str | None = None, **more: object) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "llmsys", "root": root, "parent": parent, **more}


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")
