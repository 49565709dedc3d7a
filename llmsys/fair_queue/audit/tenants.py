"""Per tenant: what it asked for, what it got, how long it waited. Knows no bound."""

from dataclasses import dataclass

import numpy as np

from llmsys.fair_queue.audit.columns import Columns
from llmsys.fair_queue.audit.scan import Floats, Scan

__all__ = ["TenantReport", "jain_index", "tenant_reports"]

LEVELS = (50, 95, 99)


@dataclass(slots=True, frozen=True)
class TenantReport:
    """Service and demand in cost units (not per weight), times in seconds.

    `demand` counts prompts that arrived and tokens that were generated; what a request that never ran would have
    generated is not known. Percentiles are None where nothing came that far.
    """

    requests: int
    service: float
    demand: float
    share: float
    backlogged_s: float
    longest_wait_s: float
    ttft_s: tuple[float | None, ...]
    latency_s: tuple[float | None, ...]


def jain_index(shares: Floats) -> float:
    """(sum x)² / (n sum x²): 1 where all got the same, 1/n where one got all; 1 for nobody.

    >>> jain_index(np.array([1.0, 1.0])), jain_index(np.array([1.0, 0.0]))
    (1.0, 0.5)
    """
    squares = float((shares**2).sum())
    return 1.0 if squares == 0.0 else float(shares.sum()) ** 2 / (len(shares) * squares)


def tenant_reports(columns: Columns, done: Scan, prompt_cost: Floats, wq: float) -> dict[str, TenantReport]:
    """One report per tenant, by name, in order of first arrival."""
    arrive, admit, first, end = columns.stamps.T
    last_s = float(columns.time[-1]) if len(columns.time) else 0.0
    waits = np.where(np.isnan(admit), np.where(np.isnan(end), last_s, end), admit) - arrive
    admitted = ~np.isnan(admit)
    total = float(prompt_cost[admitted].sum() + wq * columns.output.sum())
    reports = {}
    for index, name in enumerate(columns.tenants):
        mine = columns.request_tenant == index
        service = float(prompt_cost[mine & admitted].sum() + wq * columns.output[mine].sum())
        reports[name] = TenantReport(
            requests=int(mine.sum()),
            service=service,
            demand=float(prompt_cost[mine].sum() + wq * columns.output[mine].sum()),
            share=service / total if total else 0.0,
            backlogged_s=float(done.backlog_s[index]),
            longest_wait_s=float(waits[mine].max(initial=0.0)),
            ttft_s=_percentiles((first - arrive)[mine]),
            latency_s=_percentiles((end - arrive)[mine & ~np.isnan(first)]),
        )
    return reports


def _percentiles(values: Floats) -> tuple[float | None, ...]:
    known = values[~np.isnan(values)]
    if not len(known):
        return (None,) * len(LEVELS)
    return tuple(float(value) for value in np.percentile(known, LEVELS))
