"""Where a pair of tenants drifted apart: the worst intervals of two tenants, by one pass over their own events.

Does for one pair what `scan.py` does for all, in plain Python, and remembers the times.
"""

from dataclasses import dataclass

import numpy as np

from llmsys.fair_queue.audit.columns import ADMIT, ARRIVE, LEAVE, PREEMPT, TOKEN, Columns
from llmsys.fair_queue.audit.scan import Costs, group_ids

__all__ = ["Interval", "worst_fall", "worst_gap"]


@dataclass(slots=True, frozen=True)
class Interval:
    """A gap in service, cost units per weight, and the interval [from_s, to_s) in which it arose."""

    gap: float
    from_s: float
    to_s: float


@dataclass(slots=True, frozen=True)
class _Point:
    """State of the pair after an instant: D = S_f - S_g, and which stretch of backlog it belongs to (-1: none)."""

    at_s: float
    d: float
    joint: int
    alone: int


def worst_gap(columns: Columns, f: int, g: int, costs: Costs) -> Interval:
    """The interval of joint backlog in which |W_f - W_g| was largest."""
    worst = Interval(0.0, 0.0, 0.0)
    points = _points(columns, f, g, costs)
    for stretch in sorted({point.joint for point in points} - {-1}):
        inside = [point for point in points if point.joint == stretch]
        low, high = min(inside, key=lambda point: point.d), max(inside, key=lambda point: point.d)
        if high.d - low.d > worst.gap:
            first, last = sorted((low.at_s, high.at_s))
            worst = Interval(high.d - low.d, first, last)
    return worst


def worst_fall(columns: Columns, f: int, g: int, costs: Costs) -> Interval:
    """The interval of f's backlog in which W_g - W_f was largest."""
    worst = Interval(0.0, 0.0, 0.0)
    peak: _Point | None = None
    for point in _points(columns, f, g, costs):
        if peak is None or point.alone != peak.alone or point.d > peak.d:
            peak = point
        elif point.alone >= 0 and peak.d - point.d > worst.gap:
            worst = Interval(peak.d - point.d, peak.at_s, point.at_s)
    return worst


def _points(columns: Columns, f: int, g: int, costs: Costs) -> list[_Point]:
    mine = np.flatnonzero((columns.tenant == f) | (columns.tenant == g))
    groups = group_ids(columns.time, columns.kind)
    waiting, service = {f: 0, g: 0}, {f: 0.0, g: 0.0}
    charged: set[int] = set()
    joint, alone, points = 0, 0, list[_Point]()
    for k, after in zip(mine, [*mine[1:], -1], strict=True):
        i, r, kind = int(columns.tenant[k]), int(columns.request[k]), columns.kind[k]
        was = waiting[f] > 0, waiting[g] > 0
        if kind in (ARRIVE, PREEMPT):
            waiting[i] += 1
        elif kind == ADMIT or (kind == LEAVE and columns.tokens[k] < 0):
            waiting[i] -= 1
        if was[0] and not waiting[f]:
            alone += 1
        if all(was) and not (waiting[f] and waiting[g]):
            joint += 1
        if kind == ADMIT and r not in charged:
            charged.add(r)
            service[i] += costs.charge[r]
        elif kind == TOKEN:
            service[i] += columns.tokens[k] * costs.unit[i]
        if after < 0 or groups[after] != groups[k]:
            backlogged = waiting[f] > 0, waiting[g] > 0
            at = float(columns.time[k]), service[f] - service[g]
            points.append(_Point(*at, joint if all(backlogged) else -1, alone if backlogged[0] else -1))
    return points
