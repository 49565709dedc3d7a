"""The verdict on an event log: every statement of the theory with its worst case, its bound and its slack.

Statements, with U the constant in use (VTC, §4.1; U_log proves itself from the log, whatever admitted the requests):
two backlogged tenants' services differ by at most 2U (Theorem 4.4); a backlogged tenant falls at most 4U behind anyone
(4.9); others get at most 2U each while a newcomer waits to be admitted (4.11); counters of waiting tenants differ by at
most U and every admission takes the least (Lemma 4.3, only where plain VTC says it made the log).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llmsys.artifacts import Event
from llmsys.errors import UsageFault
from llmsys.fair_queue.audit import scan as passing
from llmsys.fair_queue.audit.columns import Columns, columns_of, read_log
from llmsys.fair_queue.audit.idle import IDLE, IDLE_S, Room, Watch, new_watch
from llmsys.fair_queue.audit.pair import Interval, worst_fall, worst_gap
from llmsys.fair_queue.audit.scan import Costs, Floats, Rows, Scan, group_ids, new_scan, scan
from llmsys.fair_queue.audit.tenants import TenantReport, jain_index, tenant_reports
from llmsys.fair_queue.audit.variants import allowance, cached_price, is_plain_vtc

__all__ = ["PAIRS_AMONG", "Check", "Report", "check", "check_file"]

PAIRS_AMONG = 300
ROUNDING = 1e-9


@dataclass(slots=True, frozen=True)
class Check:
    """One statement: the worst case found, its bound, the tenants and the interval where it was found."""

    statement: str
    worst: float
    bound: float
    holds: bool
    tenants: tuple[str, ...] = ()
    interval: tuple[float, float] | None = None

    @property
    def slack(self) -> float:
        """Cost units per weight that were left."""
        return self.bound - self.worst


@dataclass(slots=True, frozen=True)
class Report:
    """What `audit` prints. Costs are in cost units per weight; U and U_star are None where the log names no memory.

    U = max(w_p L, w_q M) is the paper's; U_star = w_q M + max(0, w_p - w_q) L holds for every pair of prices. Both need
    admission that reserves the sum of final lengths. U_log is what the log itself proves. idle_s are the seconds in
    which every waiting request would have fitted and none was admitted although an admission was due.
    """

    holds: bool
    bound_kind: str
    U: float | None
    U_star: float | None
    U_log: float
    U_log_at_s: float
    bound: float
    tolerance: float
    empirical: bool
    checks: list[Check]
    worst_gap: float
    worst_pair: tuple[str, ...]
    worst_interval: tuple[float, float] | None
    idle_violations: int
    idle_s: float
    jain: float
    rejected: int
    policy: str
    reserve: str
    clock: str
    tenants: dict[str, TenantReport]
    warnings: list[str]


def check(
    events: Iterable[Event],
    *,
    wp: float | None = None,
    wq: float | None = None,
    bound: str = "log",
    replica: int | None = None,
) -> Report:
    """Audit events in memory; prices default to the log's own. Raises as `check_file` does."""
    return _judge(columns_of(events, replica), wp, wq, bound)


def check_file(
    source: str | Path,
    *,
    wp: float | None = None,
    wq: float | None = None,
    bound: str = "log",
    replica: int | None = None,
) -> Report:
    """Audit a log file, `-` for stdin, or the queue of one replica in it. bound: `log` uses U_log, `paper` U_star.

    Raises BadInput at FILE:LINE for records that make no sense, UsageFault for `paper` where the log names no memory
    and for several replicas without a choice.
    """
    return _judge(read_log(source, replica), wp, wq, bound)


def _judge(columns: Columns, wp: float | None, wq: float | None, bound: str) -> Report:
    meta = columns.meta
    wp, wq = meta.prompt_weight if wp is None else wp, meta.output_weight if wq is None else wq
    columns = _largest_tenants(columns, wp, wq)
    weight = np.array([meta.weights.get(name, 1.0) for name in columns.tenants])
    costs = Costs(charge=_prompt_cost(columns, wp) / weight[columns.request_tenant], unit=wq / weight, weight=weight)
    done, watch = _scanned(columns, costs, 0.0)
    tolerance = 2.0 * float(np.max((meta.log_every - 1) * done.most_running * costs.unit, initial=0.0))
    if tolerance:
        done, watch = _scanned(columns, costs, tolerance)
    paper, star = _paper_constants(columns, wp, wq, weight)
    if bound == "paper" and star is None:
        raise UsageFault("--bound paper needs the memory in tokens, which the log's meta does not say; use --bound log")
    extra = allowance(columns, costs.unit, wp / weight)
    constant = float(done.tally[passing.U_LOG]) if bound == "log" or star is None else star
    checks = _checks(columns, done, constant + extra, costs, tolerance)
    at = int(done.tally[passing.U_LOG_AT])
    return Report(
        holds=all(one.holds for one in checks),
        bound_kind=bound,
        U=paper,
        U_star=star,
        U_log=float(done.tally[passing.U_LOG]),
        U_log_at_s=float(columns.time[at]) if at >= 0 else 0.0,
        bound=checks[0].bound,
        tolerance=tolerance,
        empirical=extra > 0,
        checks=checks,
        worst_gap=checks[0].worst,
        worst_pair=checks[0].tenants,
        worst_interval=checks[0].interval,
        idle_violations=int(watch.tally[IDLE]),
        idle_s=float(watch.tally[IDLE_S]),
        jain=jain_index(done.backlog_service[done.backlog_s > 0]),
        rejected=columns.rejected,
        policy=meta.policy,
        reserve=meta.reserve,
        clock=meta.clock,
        tenants=tenant_reports(columns, done, _prompt_cost(columns, wp), wq),
        warnings=columns.warnings,
    )


def _prompt_cost(columns: Columns, wp: float) -> Floats:
    """Cost units of every prompt, its cached tokens at the price that the log's policy names."""
    return wp * (columns.prompt - (1.0 - cached_price(columns.meta.policy)) * columns.cached)


def _scanned(columns: Columns, costs: Costs, tolerance: float) -> tuple[Scan, Watch]:
    c = columns
    done = new_scan(len(costs.unit), c.output)
    rows = Rows(c.time, c.kind, c.tenant, c.request, c.tokens, group_ids(c.time, c.kind))
    room = Room(c.prompt + c.limit, c.meta.memory, c.meta.max_batch, c.meta.admit_every)
    total = float(costs.charge.sum() + (c.output * costs.unit[c.request_tenant]).sum())
    watch = new_watch(len(c.requests))
    scan(done, rows, costs, watch, room, tolerance + ROUNDING * total)
    return done, watch


def _paper_constants(columns: Columns, wp: float, wq: float, weight: Floats) -> tuple[float, float] | tuple[None, None]:
    """U and U_star over the least weight."""
    memory = columns.meta.memory
    if not memory or not len(weight):
        return None, None
    admitted = ~np.isnan(columns.stamps[:, 1])
    longest = float(np.max(columns.prompt[admitted], initial=0.0))
    least = float(weight.min())
    return max(wp * longest, wq * memory) / least, (wq * memory + max(0.0, wp - wq) * longest) / least


def _checks(columns: Columns, done: Scan, constant: float, costs: Costs, tolerance: float) -> list[Check]:
    names, rounding = columns.tenants, ROUNDING * float(done.tally[passing.TOTAL] + done.service.sum())
    f, g = _largest(done.joint)
    gap = worst_gap(columns, f, g, costs) if done.joint.any() else None
    a, b = _largest(done.fall)
    fall = worst_fall(columns, a, b, costs) if done.fall.any() else None

    def judged(statement: str, worst: float, bound: float, who: tuple[int, ...], where: Interval | None) -> Check:
        holds = worst <= bound + tolerance + rounding
        interval = None if where is None else (where.from_s, where.to_s)
        return Check(
            statement, worst, bound, holds, tuple(names[i] for i in who) if where is not None else (), interval
        )

    checks = [
        judged("both backlogged: |W_f - W_g| <= 2U", float(done.joint.max(initial=0.0)), 2 * constant, (f, g), gap),
        judged("f backlogged: W_g - W_f <= 4U", float(done.fall.max(initial=0.0)), 4 * constant, (a, b), fall),
    ]
    if len(names):
        limits = 2 * constant * (costs.weight.sum() - costs.weight)
        u = int(np.argmax(done.dispatch - limits))
        wait = Interval(float(done.dispatch[u]), 0.0, float(done.dispatch_s[u]))
        checks.append(judged("others' service before dispatch <= 2U each", wait.gap, float(limits[u]), (u,), wait))
    if is_plain_vtc(columns.meta.policy) and not columns.partial:
        widest = float(done.tally[passing.COUNTER_GAP])
        checks.append(judged("counters in the queue differ by <= U", widest, constant, (), None))
        missed = float(done.tally[passing.MISORDERED])
        checks.append(Check("admissions that passed over the least counter", missed, 0.0, missed == 0))
    return checks


def _largest(pairs: Floats) -> tuple[int, int]:
    if not pairs.size:
        return 0, 0
    f, g = np.unravel_index(int(np.argmax(pairs)), pairs.shape)
    return int(f), int(g)


def _largest_tenants(columns: Columns, wp: float, wq: float) -> Columns:
    """The log of the PAIRS_AMONG tenants with most service, if there are more; it says so."""
    if len(columns.tenants) <= PAIRS_AMONG:
        return columns
    service = np.zeros(len(columns.tenants))
    np.add.at(service, columns.request_tenant, wp * columns.prompt + wq * columns.output)
    return columns.only(np.sort(np.argsort(service)[-PAIRS_AMONG:]))
