"""The OpenAI-compatible server over the engine.

A request's way: `app` routes it to `routes`, which asks `service` for a tenant (`tenants`), reads the body (`bodies`),
has it made into a job (`jobs`) with its adapter checked (`registry`) and in memory (`shelf`), and writes the engine's
events (`backend`) as an answer (`streaming`). `adapter_routes` are the endpoints about adapters, `metering` charges
every step, `metrics` counts, `faults` says no, `launch` starts and stops it.
"""

from llmsys.serve_lora.server.launch import serve
from llmsys.serve_lora.server.settings import Access, Address, EngineSettings, Recording, ServerSettings
from llmsys.serve_lora.server.tenants import TenantTable, key_digest, read_tenants, tenant_table

__all__ = [
    "Access",
    "Address",
    "EngineSettings",
    "Recording",
    "ServerSettings",
    "TenantTable",
    "key_digest",
    "read_tenants",
    "serve",
    "tenant_table",
]
