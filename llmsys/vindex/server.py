"""HTTP in front of a service: its own interface under /v1, and the part of Qdrant's that clients need.

Every request is judged by its bearer token first. Bodies are bounded, work runs on threads, errors are one line of
JSON. Knows nothing of indexes but their service.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from llmsys.artifacts import decode_record, encode
from llmsys.errors import BadInput, LlmsysError
from llmsys.vindex.access_tokens import Caller, Tokens
from llmsys.vindex.changes import ChangeRecord
from llmsys.vindex.faults import NotFound
from llmsys.vindex.qdrant_requests import (
    DeleteRequest,
    PayloadRequest,
    QueryRequest,
    UpsertRequest,
    deleted,
    granted,
    predicate,
    upserted,
)
from llmsys.vindex.service import Forbidden, SearchRequest, Service

__all__ = ["make_app"]

MOST_BYTES = 64 * 2**20
QDRANT_VERSION = "1.15.0"

T = TypeVar("T")
Handler = Callable[[Request, Caller], Awaitable[object]]


def make_app(service: Service, tokens: Tokens) -> Starlette:
    """The application that serves one index."""
    shown = _Handlers(service)
    methods: list[tuple[str, str, Handler]] = [
        ("POST", "/v1/search", shown.search),
        ("POST", "/v1/apply", shown.apply),
        ("GET", "/v1/stats", shown.stats),
        ("GET", "/metrics", shown.metrics),
        ("GET", "/collections", shown.collections),
        ("GET", "/collections/{name}", shown.collection),
        ("GET", "/collections/{name}/exists", shown.exists),
        ("PUT", "/collections/{name}/index", shown.acknowledged),
        ("PUT", "/collections/{name}/points", shown.upsert),
        ("POST", "/collections/{name}/points/query", shown.query),
        ("POST", "/collections/{name}/points/delete", shown.delete),
        ("POST", "/collections/{name}/points/payload", shown.payload),
    ]
    routes = [Route(path, partial(_guarded, tokens, handler), methods=[kind]) for kind, path, handler in methods]
    routes += [Route("/healthz", _alive), Route("/", partial(_told, {"title": "llmsys", "version": QDRANT_VERSION}))]
    return Starlette(routes=routes)


async def _alive(_: Request) -> Response:
    return PlainTextResponse("ok\n")


async def _told(fact: object, _: Request) -> Response:
    return _json(fact)


async def _guarded(tokens: Tokens, handler: Handler, request: Request) -> Response:
    """A handler's answer to a caller with a token; every fault as a status and one line."""
    caller = tokens.caller(request.headers.get("authorization") or request.headers.get("api-key"))
    if caller is None:
        return _json({"error": "no valid token"}, 401)
    try:
        found = await handler(request, caller)
    except Forbidden as error:
        return _json({"error": str(error)}, 403)
    except NotFound as error:
        return _json({"error": str(error)}, 404)
    except LlmsysError as error:
        return _json({"error": str(error), "status": {"error": str(error)}}, 400 if error.exit_code != 1 else 500)
    return found if isinstance(found, Response) else _json(found)


def _json(found: object, status: int = 200) -> Response:
    return Response(encode(found), status, media_type="application/json")


async def _body(request: Request) -> bytes:
    """The body of a request. Raises BadInput where it is over MOST_BYTES."""
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > MOST_BYTES:
            raise BadInput("body", "too long", f"at most {MOST_BYTES} bytes")
    return bytes(data)


async def _decoded(request: Request, kind: type[T]) -> T:
    return decode_record(await _body(request), msgspec.json.Decoder(kind), "body")


class _Handlers:
    """What each path does."""

    def __init__(self, service: Service) -> None:
        self.service = service

    async def search(self, request: Request, caller: Caller) -> object:
        asked = await _decoded(request, SearchRequest)
        seq, results = await run_in_threadpool(self.service.search, asked, caller)
        return {"seq": seq, "results": results}

    async def apply(self, request: Request, caller: Caller) -> object:
        decoder = msgspec.json.Decoder(ChangeRecord)
        lines = [line for line in (await _body(request)).splitlines() if line.strip()]
        changes = [decode_record(line, decoder, f"body:{number}") for number, line in enumerate(lines, 1)]
        seq = await run_in_threadpool(self.service.apply, changes, caller)
        return {"seq": seq, "refs": [change.ref for change in changes]}

    async def stats(self, request: Request, caller: Caller) -> object:
        return await run_in_threadpool(self.service.stats, caller, request.query_params.get("tenant"))

    async def metrics(self, request: Request, caller: Caller) -> object:
        if not caller.admin:
            raise Forbidden("this needs an administrator's token")
        counts = {name: self.service.counts[name] for name in ("searches", "changes")}
        lines = [f"# TYPE vindex_{name}_total counter\nvindex_{name}_total {count}" for name, count in counts.items()]
        gauges = {"vectors": len(self.service.index), "seq": self.service.index.seq}
        lines += [f"# TYPE vindex_{name} gauge\nvindex_{name} {value}" for name, value in gauges.items()]
        return PlainTextResponse("\n".join(lines) + "\n")

    async def collections(self, request: Request, caller: Caller) -> object:
        return _result({"collections": [{"name": self.service.index.path.name}]})

    async def collection(self, request: Request, caller: Caller) -> object:
        store = self.service.index.state.store
        distance = {"l2": "Euclid", "ip": "Dot", "cosine": "Cosine"}[store.metric]
        size = {"size": int(store.vectors.shape[1]), "distance": distance}
        return _result({"status": "green", "config": {"params": {"vectors": size}}})

    async def exists(self, request: Request, caller: Caller) -> object:
        return _result({"exists": request.path_params["name"] == self.service.index.path.name})

    async def acknowledged(self, request: Request, caller: Caller) -> object:
        return _result({"operation_id": self.service.index.seq, "status": "completed"})

    async def upsert(self, request: Request, caller: Caller) -> object:
        return await self._changed(upserted(await _decoded(request, UpsertRequest)), caller)

    async def delete(self, request: Request, caller: Caller) -> object:
        return await self._changed(deleted(await _decoded(request, DeleteRequest)), caller)

    async def payload(self, request: Request, caller: Caller) -> object:
        return await self._changed(granted(await _decoded(request, PayloadRequest)), caller)

    async def query(self, request: Request, caller: Caller) -> object:
        asked = await _decoded(request, QueryRequest)
        hits = await run_in_threadpool(
            self.service.hits,
            [asked.vector],
            caller.tenant,
            caller,
            k=asked.limit,
            where=predicate(asked.filter),
        )
        if asked.score_threshold is not None:
            hits = hits.within(asked.score_threshold, self.service.index.state.store.metric)
        ids, scores = hits.row(0)
        carried = self.service.tenants_of(ids, caller) if asked.with_payload else [None] * len(ids)
        points = [
            {"id": one, "version": hits.seq, "score": score} | ({"payload": {"tenants": names}} if names else {})
            for one, score, names in zip(ids, scores, carried, strict=True)
        ]
        return _result({"points": points})

    async def _changed(self, changes: list[ChangeRecord], caller: Caller) -> object:
        seq = await run_in_threadpool(self.service.apply, changes, caller)
        return _result({"operation_id": seq, "status": "completed"})


def _result(found: object) -> dict[str, object]:
    return {"result": found, "status": "ok", "time": 0.0}
