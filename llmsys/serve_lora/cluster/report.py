"""What a simulated cluster did and cost, as a whole and per tenant; and which cluster is the cheapest that will do.

Knows nothing of files or tables.
"""

import math
from collections.abc import Sequence

import msgspec

from llmsys.artifacts import TraceRecord
from llmsys.serve_lora.cluster.jobs import Job
from llmsys.serve_lora.cluster.profile import ReplicaProfile
from llmsys.serve_lora.cluster.routing import make_router
from llmsys.serve_lora.cluster.simulation import ClusterSettings, Outcome, simulate
from llmsys.serve_lora.prices import PriceList
from llmsys.serve_lora.tenant_totals import quantile

__all__ = ["ClusterReport", "TenantLine", "least_machine_s", "plan_cluster", "report_cluster", "simulate_cluster"]


class TenantLine(msgspec.Struct, frozen=True):
    """One tenant: requests, tokens, waiting, machine seconds it pays and their price."""

    tenant: str
    requests: int
    output_tokens: int
    ttft_p50_s: float | None
    ttft_p99_s: float | None
    machine_s: float
    cost: float

    def as_row(self) -> dict[str, str | int | float | None]:
        """Cells of a table."""
        return {
            "tenant": self.tenant,
            "requests": self.requests,
            "output": self.output_tokens,
            "ttft p50": self.ttft_p50_s,
            "ttft p99": self.ttft_p99_s,
            "machine s": self.machine_s,
            "cost": self.cost,
        }


class ClusterReport(msgspec.Struct, frozen=True):
    """One run: Σ tenants' machine_s = busy_s + idle_s + start_s = machine_s. least_machine_s: no placement needs less.

    meets_slo: nobody refused, and the 99th percentile of the time to the first token within the limit.
    """

    policy: str
    gpus: int
    requests: int
    refused: int
    end_s: float
    output_tok_s: float
    ttft_p50_s: float | None
    ttft_p99_s: float | None
    tpot_p50_s: float | None
    tpot_p99_s: float | None
    meets_slo: bool
    cold_starts: int
    peak_replicas: int
    moves: int
    machine_s: float
    busy_s: float
    idle_s: float
    start_s: float
    least_machine_s: float
    cost: float
    currency: str
    tenants: list[TenantLine]

    def summary_line(self) -> str:
        """The run in one line: replicas, waiting, cost, and how much of the machine time no placement can save."""
        least = self.least_machine_s / self.machine_s if self.machine_s else 1.0
        return (
            f"{self.gpus} replicas at most, {self.peak_replicas} used: ttft p99 {self.ttft_p99_s or 0:.3g} s, "
            f"{self.machine_s:.4g} machine s ({least:.0%} unavoidable, {self.idle_s:.3g} idle, {self.start_s:.3g} "
            f"starting), cost {self.cost:.4g} {self.currency}"
        )

    def as_row(self) -> dict[str, str | int | float | None]:
        """Cells of a table that compares runs."""
        return {
            "policy": self.policy,
            "gpus": self.gpus,
            "ttft p50": self.ttft_p50_s,
            "ttft p99": self.ttft_p99_s,
            "tpot p99": self.tpot_p99_s,
            "slo": "met" if self.meets_slo else "missed",
            "starts": self.cold_starts,
            "moves": self.moves,
            "machine s": self.machine_s,
            "× least": self.machine_s / self.least_machine_s if self.least_machine_s else None,
            "cost": self.cost,
        }


def report_cluster(
    outcome: Outcome,
    profile: ReplicaProfile,
    *,
    policy: str,
    gpus: int,
    slo_ttft_s: float,
    idle: str,
    prices: PriceList,
) -> ClusterReport:
    """Sum a run up; `idle` is a rule of `accounts.IDLE_RULES`."""
    jobs, accounts = outcome.jobs, outcome.accounts
    waits = [_ttft_s(job) for job in jobs]
    paces = [pace for job in jobs if (pace := _tpot_s(job)) is not None]
    output = sum(job.produced for job in jobs)
    first_s = jobs[0].record.arrival_s if jobs else 0.0
    last_s = max((job.finish_s or 0.0 for job in jobs), default=0.0)
    p99 = quantile(waits, 0.99)
    return ClusterReport(
        policy=policy,
        gpus=gpus,
        requests=len(jobs),
        refused=len(outcome.refused),
        end_s=outcome.end_s,
        output_tok_s=output / (last_s - first_s) if last_s > first_s else 0.0,
        ttft_p50_s=quantile(waits, 0.5),
        ttft_p99_s=p99,
        tpot_p50_s=quantile(paces, 0.5),
        tpot_p99_s=quantile(paces, 0.99),
        meets_slo=not outcome.refused and (p99 is None or p99 <= slo_ttft_s),
        cold_starts=outcome.cold_starts,
        peak_replicas=outcome.peak_replicas,
        moves=sum(job.moves for job in jobs),
        machine_s=accounts.machine_s,
        busy_s=math.fsum(accounts.busy_s.values()),
        idle_s=math.fsum(accounts.idle_s.values()),
        start_s=math.fsum(accounts.start_s.values()),
        least_machine_s=least_machine_s([job.record for job in jobs], profile),
        cost=prices.of_device(accounts.machine_s),
        currency=prices.currency,
        tenants=_tenants(jobs, accounts.shares(idle), prices),
    )


def simulate_cluster(
    trace: Sequence[TraceRecord],
    profile: ReplicaProfile,
    settings: ClusterSettings,
    *,
    policy: str,
    slo_ttft_s: float,
    idle: str,
    prices: PriceList,
) -> tuple[ClusterReport, Outcome]:
    """One run of a trace under one policy, summed up and as it was."""
    outcome = simulate(trace, profile, make_router(policy), settings)
    gpus = settings.gpus
    return (
        report_cluster(outcome, profile, policy=policy, gpus=gpus, slo_ttft_s=slo_ttft_s, idle=idle, prices=prices),
        outcome,
    )


def plan_cluster(
    trace: Sequence[TraceRecord],
    profile: ReplicaProfile,
    settings: ClusterSettings,
    *,
    policies: Sequence[str],
    gpus: Sequence[int],
    slo_ttft_s: float,
    idle: str,
    prices: PriceList,
) -> tuple[list[ClusterReport], ClusterReport | None]:
    """Every policy at every limit of replicas, and the cheapest run that is fast enough, None where none is."""
    reports = []
    for policy in policies:
        for limit in gpus:
            limited = ClusterSettings(limit, settings.keep_alive_s, settings.consolidate_s, settings.max_moves)
            report, _ = simulate_cluster(
                trace, profile, limited, policy=policy, slo_ttft_s=slo_ttft_s, idle=idle, prices=prices
            )
            reports.append(report)
    good = [report for report in reports if report.meets_slo]
    return reports, min(good, key=lambda report: (report.machine_s, report.gpus), default=None)


def least_machine_s(trace: Sequence[TraceRecord], profile: ReplicaProfile) -> float:
    """Machine seconds that no placement can go below: every token's own time, and the fixed time of full batches.

    Fractional packing: adapters and starts cost nothing, every step of decoding has `max_batch` rows.
    """
    model, total, decoded = profile.model, [], 0
    for record in trace:
        prompt, output = max(record.prompt_tokens, 1), max(record.output_tokens, 1)
        later = output - 1
        context = prompt + later * prompt + later * (later + 1) // 2
        total.append(model.prefill_s * prompt + model.decode_s * later + model.context_s * context)
        decoded += later
    return math.fsum(total) + model.fixed_s * decoded / profile.max_batch


def _ttft_s(job: Job) -> float:
    assert job.first_s is not None
    return job.first_s - job.record.arrival_s


def _tpot_s(job: Job) -> float | None:
    """Seconds per token after the first, None for an answer of one token."""
    if job.produced < 2 or job.finish_s is None or job.first_s is None:
        return None
    return (job.finish_s - job.first_s) / (job.produced - 1)


def _tenants(jobs: Sequence[Job], shares: dict[str, float], prices: PriceList) -> list[TenantLine]:
    by_tenant: dict[str, list[Job]] = {name: [] for name in shares}
    for job in jobs:
        by_tenant.setdefault(job.tenant, []).append(job)
    return [
        TenantLine(
            tenant=name,
            requests=len(own),
            output_tokens=sum(job.produced for job in own),
            ttft_p50_s=quantile([_ttft_s(job) for job in own], 0.5),
            ttft_p99_s=quantile([_ttft_s(job) for job in own], 0.99),
            machine_s=shares.get(name, 0.0),
            cost=prices.of_device(shares.get(name, 0.0)),
        )
        for name, own in sorted(by_tenant.items())
    ]
