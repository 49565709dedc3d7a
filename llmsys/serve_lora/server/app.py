"""The ASGI application: routes, and the one place where faults become error objects.

Knows nothing of sockets or signals.
"""

import logging

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from llmsys.serve_lora.server import adapter_routes, fleet_routes, routes
from llmsys.serve_lora.server.faults import ApiFault
from llmsys.serve_lora.server.service import Service

__all__ = ["make_app"]

LOG = logging.getLogger("llmsys.serve_lora")
ROUTES = (
    ("/v1/chat/completions", routes.chat, "POST"),
    ("/v1/completions", routes.completion, "POST"),
    ("/v1/models", routes.models, "GET"),
    ("/v1/replicas", fleet_routes.replicas, "GET"),
    ("/v1/lora_adapters", adapter_routes.lora_adapters, "GET"),
    ("/v1/lora_adapters/{name}/pin", adapter_routes.pin, "POST"),
    ("/v1/lora_adapters/{name}/unpin", adapter_routes.unpin, "POST"),
    ("/v1/load_lora_adapter", adapter_routes.load, "POST"),
    ("/v1/unload_lora_adapter", adapter_routes.unload, "POST"),
    ("/tokenize", routes.tokenize, "POST"),
    ("/detokenize", routes.detokenize, "POST"),
    ("/health", routes.health, "GET"),
    ("/ready", routes.ready, "GET"),
    ("/version", routes.version, "GET"),
    ("/metrics", routes.metrics, "GET"),
)


def make_app(service: Service) -> Starlette:
    """The application around one service."""
    app = Starlette(
        routes=[Route(path, endpoint, methods=[method]) for path, endpoint, method in ROUTES],
        exception_handlers={ApiFault: _on_fault, HTTPException: _on_http, Exception: _on_error},
    )
    app.state.service = service
    return app


async def _on_fault(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiFault)
    headers = {} if error.retry_after_s is None else {"retry-after": str(max(round(error.retry_after_s + 0.5), 1))}
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return Response(
        msgspec.json.encode(error.body()), status_code=error.status, headers=headers, media_type="application/json"
    )


async def _on_http(request: Request, error: Exception) -> Response:
    """A path or a method that is not there."""
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path[:200]}: {error.detail}"
    kind = "NotFoundError" if error.status_code == 404 else "invalid_request_error"
    return await _on_fault(request, ApiFault(error.status_code, message, kind=kind, code="unknown_url"))


async def _on_error(request: Request, error: Exception) -> Response:
    """A fault of ours: the client hears that there was one, the log hears which."""
    LOG.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return await _on_fault(request, ApiFault(500, "the server failed; its log says how", kind="server_error"))
