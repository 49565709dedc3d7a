"""The endpoint about replicas, for the operator. Knows nothing of answers."""

from starlette.requests import Request
from starlette.responses import Response

from llmsys.serve_lora.server.access import json_response, service_of, tenant_of
from llmsys.serve_lora.server.faults import forbidden, not_found
from llmsys.serve_lora.server.tenants import ANYONE

__all__ = ["replicas"]


async def replicas(request: Request) -> Response:
    """`GET /v1/replicas`: what is known of each replica. 404 for a server without any, 403 for a tenant's key."""
    service = service_of(request)
    if tenant_of(request) is not ANYONE:
        raise forbidden("a tenant's key does not open what all tenants run on; expected LLMSYS_API_KEY's")
    fleet = service.backend.fleet
    if fleet is None:
        raise not_found("this server has no replicas; start it with --replicas", code="no_replicas", param=None)
    return json_response(fleet.facts())
