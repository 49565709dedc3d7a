"""A cluster of replicas on a trace, simulated: where requests go, who waits, which tenant costs what.

`simulation` runs it, with `replica` for one replica's steps, `routing` for the placement rules, `profile` for how long
steps take, and `accounts` for where the time went; `report` sums up and plans; `adapters` gives a trace its adapters.
"""

from llmsys.serve_lora.cluster.accounts import IDLE_RULES, Accounts
from llmsys.serve_lora.cluster.adapters import assign_adapters, popularity_counts
from llmsys.serve_lora.cluster.options import parse_limits, with_keep_alive
from llmsys.serve_lora.cluster.profile import Fit, ReplicaProfile, Sample, fit_profile, read_profile, write_profile
from llmsys.serve_lora.cluster.report import (
    ClusterReport,
    TenantLine,
    least_machine_s,
    plan_cluster,
    report_cluster,
    simulate_cluster,
)
from llmsys.serve_lora.cluster.routing import POLICIES, Router, make_router
from llmsys.serve_lora.cluster.simulation import ClusterSettings, Outcome, simulate
from llmsys.serve_lora.cluster.timeline import timeline

__all__ = [
    "IDLE_RULES",
    "POLICIES",
    "Accounts",
    "ClusterReport",
    "ClusterSettings",
    "Fit",
    "Outcome",
    "ReplicaProfile",
    "Router",
    "Sample",
    "TenantLine",
    "assign_adapters",
    "fit_profile",
    "least_machine_s",
    "make_router",
    "parse_limits",
    "plan_cluster",
    "popularity_counts",
    "read_profile",
    "report_cluster",
    "simulate",
    "simulate_cluster",
    "timeline",
    "with_keep_alive",
    "write_profile",
]
