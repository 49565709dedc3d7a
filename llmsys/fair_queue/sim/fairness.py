"""How the paper's figures measure fairness from per-request times: service differences in sliding windows.

A request's cost counts as spread evenly from its first token to its end, as the authors' own scripts have it
(VTC-artifact, fair_bench/plot/visualize.py and plot_revision.py). `audit` measures exactly; this compares with figures.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["ServiceDifference", "accumulated_gap", "served_by", "service_difference"]

Floats = NDArray[np.float64]
WINDOW_S, WARMUP_S, POINTS = 60.0, 30.0, 19
SHORTEST_S = 1e-5


@dataclass(slots=True, frozen=True)
class ServiceDifference:
    """Largest, mean and variance over the points, in cost units per second."""

    largest: float
    mean: float
    variance: float


def _ticks(duration_s: float) -> Floats:
    return np.arange(1, POINTS + 1) * (duration_s - WARMUP_S) / (POINTS + 1) + WARMUP_S


def _served(start: Floats, end: Floats, cost: Floats, low: Floats, high: Floats) -> Floats:
    """Cost served in [low, high), [requests, points]."""
    overlap = np.minimum(high, end[:, None]) - np.maximum(low, start[:, None])
    spread = np.maximum(end - start, SHORTEST_S)[:, None]
    counted = ((end >= 1.0) & (end - start >= SHORTEST_S))[:, None]
    return np.where(counted, cost[:, None] * np.maximum(overlap, 0.0) / spread, 0.0)


def _per_tenant(values: Floats, tenant: NDArray[np.int32]) -> Floats:
    """Sum rows by tenant, [tenants, points]."""
    sums = np.zeros((int(tenant.max(initial=-1)) + 1, values.shape[1]))
    np.add.at(sums, tenant, values)
    return sums


def service_difference(
    tenant: NDArray[np.int32],
    arrival: Floats,
    first: Floats,
    finish: Floats,
    cost: Floats,
    *,
    duration_s: float = 600.0,
) -> ServiceDifference:
    """Sum over tenants j of min(max_i s_i - s_j, |requested_j - s_j|), in windows of 60 s at 19 points after 30 s.

    s is service and requested what arrived, both per second; arrays are per served request (VTC, §5.1).
    """
    ticks = _ticks(duration_s)
    low, high = ticks - WINDOW_S / 2, ticks + WINDOW_S / 2
    served = _per_tenant(_served(first, finish, cost, low, high), tenant) / WINDOW_S
    asked = (low <= arrival[:, None]) & (arrival[:, None] <= high)
    requested = _per_tenant(np.where(asked, cost[:, None], 0.0), tenant) / WINDOW_S
    if not served.size:
        return ServiceDifference(0.0, 0.0, 0.0)
    sums = np.minimum(served.max(axis=0) - served, np.abs(requested - served)).sum(axis=0)
    return ServiceDifference(float(sums.max()), float(sums.mean()), float(sums.var()))


def served_by(tenant: NDArray[np.int32], first: Floats, finish: Floats, cost: Floats, *, at_s: float) -> Floats:
    """Each tenant's service, in cost units, until `at_s`."""
    return _per_tenant(_served(first, finish, cost, np.zeros(1), np.array([at_s])), tenant)[:, 0]


def accumulated_gap(
    tenant: NDArray[np.int32], first: Floats, finish: Floats, cost: Floats, *, duration_s: float = 600.0
) -> float:
    """Largest difference between two tenants' service since the warm-up, over the same points; cost units."""
    ticks = _ticks(duration_s)
    total = _per_tenant(_served(first, finish, cost, np.full(POINTS, WARMUP_S), ticks), tenant)
    return float((total.max(axis=0) - total.min(axis=0)).max()) if total.size else 0.0
