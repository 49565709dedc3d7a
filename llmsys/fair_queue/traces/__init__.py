"""Workload traces: imported, generated, merged, sped up, and turned into requests with real prompts."""

from llmsys.fair_queue.traces.clients import Client, generate_clients, parse_client
from llmsys.fair_queue.traces.prompts import count_with, read_prompts
from llmsys.fair_queue.traces.published import FORMATS, Imported, read_published
from llmsys.fair_queue.traces.suites import SUITES, Suite, generate_suite
from llmsys.fair_queue.traces.tenants import assign_tenants, poisson_arrivals
from llmsys.fair_queue.traces.transform import (
    TenantSummary,
    TraceSummary,
    mix,
    requests_from_trace,
    scale,
    summarize,
)

__all__ = [
    "FORMATS",
    "SUITES",
    "Client",
    "Imported",
    "Suite",
    "TenantSummary",
    "TraceSummary",
    "assign_tenants",
    "count_with",
    "generate_clients",
    "generate_suite",
    "mix",
    "parse_client",
    "poisson_arrivals",
    "read_prompts",
    "read_published",
    "requests_from_trace",
    "scale",
    "summarize",
]
