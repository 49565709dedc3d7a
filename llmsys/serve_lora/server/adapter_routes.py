"""The endpoints about adapters: which there are, and for the operator loading, unloading and pinning them.

Knows nothing of answers.
"""

from starlette.requests import Request
from starlette.responses import Response

from llmsys.engine.errors import AdapterBusy, AdapterError
from llmsys.serve_lora.server import bodies
from llmsys.serve_lora.server.access import json_response, operator_service, service_of, tenant_of
from llmsys.serve_lora.server.faults import ApiFault, api_fault, forbidden, not_found

__all__ = ["load", "lora_adapters", "pin", "unload", "unpin"]


async def lora_adapters(request: Request) -> Response:
    """`GET /v1/lora_adapters`: what is known of each adapter that the client may see."""
    service = service_of(request)
    tenant = tenant_of(request)
    infos = service.backend.registry.report(service.backend.pool.resident())
    return json_response({"object": "list", "data": [info for info in infos if tenant.may_use(info.name)]})


async def load(request: Request) -> Response:
    """`POST /v1/load_lora_adapter`: a directory below the adapters directory, under a name."""
    service = operator_service(request)
    body = await bodies.read_body(request, bodies.LoadBody, limit=service.settings.max_body_bytes)
    try:
        await service.backend.registry.load(body.lora_name, body.lora_path, replace=body.load_inplace)
    except PermissionError as error:
        raise forbidden(str(error)) from error
    except ValueError as error:
        raise ApiFault(400, str(error), code="invalid_value", param="lora_name") from error
    except AdapterError as error:
        raise api_fault(error, retry_after_s=1.0) from error
    return json_response({"status": "ok", "lora_name": body.lora_name})


async def unload(request: Request) -> Response:
    """`POST /v1/unload_lora_adapter`: forget a name; requests under way end on it."""
    service = operator_service(request)
    body = await bodies.read_body(request, bodies.UnloadBody, limit=service.settings.max_body_bytes)
    try:
        await service.backend.registry.unload(body.lora_name)
    except KeyError as error:
        raise not_found(f"the adapter {body.lora_name[:128]!r} does not exist", param="lora_name") from error
    return json_response({"status": "ok", "lora_name": body.lora_name})


async def pin(request: Request) -> Response:
    """`POST /v1/lora_adapters/{name}/pin`: load an adapter and let it keep its slot."""
    return await _pinned(request, hold=True)


async def unpin(request: Request) -> Response:
    """`POST /v1/lora_adapters/{name}/unpin`: let an adapter's slot go to others again."""
    return await _pinned(request, hold=False)


async def _pinned(request: Request, *, hold: bool) -> Response:
    service = operator_service(request)
    name = request.path_params["name"]
    try:
        await service.backend.registry.pin(name, hold=hold)
    except KeyError as error:
        raise not_found(f"the adapter {name[:128]!r} does not exist", param="name") from error
    except ValueError as error:
        raise ApiFault(400, str(error), code="too_many_pins", param="name") from error
    except AdapterBusy as error:
        raise ApiFault(503, error.message, kind="server_error", code="slots_in_use", retry_after_s=1.0) from error
    except AdapterError as error:
        raise api_fault(error, retry_after_s=1.0) from error
    return json_response({"status": "ok", "lora_name": name, "pinned": hold})
