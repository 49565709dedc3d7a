"""Whose request it is and what stands behind it: the service, the tenant, the operator; and JSON as a response.

Knows no route.
"""

from collections.abc import Mapping

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from llmsys.serve_lora.server.faults import forbidden
from llmsys.serve_lora.server.service import Service
from llmsys.serve_lora.server.tenants import ANYONE, Tenant

__all__ = ["json_response", "operator_service", "service_of", "tenant_of"]


def service_of(request: Request) -> Service:
    """The service of the application that the request came to."""
    service: Service = request.app.state.service
    return service


def tenant_of(request: Request) -> Tenant:
    """Whose key the request carries. Raises ApiFault 401, and 503 where nobody could be answered."""
    service = service_of(request)
    tenant = service.tenant(request.headers.get("authorization"))
    service.backend  # noqa: B018 (raises before anything of the request is read)
    return tenant


def operator_service(request: Request) -> Service:
    """The service, for those who may change its adapters. Raises ApiFault 401, 403."""
    service = service_of(request)
    tenant = tenant_of(request)
    if not service.settings.access.runtime_adapters:
        raise forbidden("adapters are not changed by requests here; start the server with --allow-runtime-adapters")
    if tenant is not ANYONE:
        raise forbidden("a tenant's key does not change the adapters of all tenants; expected LLMSYS_API_KEY's")
    return service


def json_response(value: object, *, headers: Mapping[str, str] | None = None) -> Response:
    """A 200 with a JSON body."""
    return Response(msgspec.json.encode(value), headers=headers, media_type="application/json")
