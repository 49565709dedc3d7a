"""One pass over an event log: for every pair of tenants the largest gap in service, and what bounds it.

With S_i the service of tenant i so far, divided by its weight, and D_fg = S_f - S_g: over all sub-intervals of a time
in which f and g are both backlogged, the largest |W_f - W_g| is max D_fg - min D_fg; over those in which f is, the
largest W_g - W_f is the deepest fall of D_fg from an earlier height. So an event costs one row of a matrix, no search.
Knows numbers only; `columns.py` made them and `report.py` judges them.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmsys.fair_queue.audit.columns import ADMIT, ARRIVE, LEAVE, PREEMPT, TOKEN
from llmsys.fair_queue.audit.idle import Room, Watch, observe, pass_time
from llmsys.gpu.compiled import compiled

__all__ = ["Costs", "Rows", "Scan", "group_ids", "new_scan", "scan"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]
# places in Scan.tally
U_LOG, U_LOG_AT, COUNTER_GAP, MISORDERED, MISORDER, TOTAL, LAST_LEFT, QUEUE, BATCH = range(9)


class Rows(NamedTuple):
    """The events: `tokens` of a TOKEN row, -1 in a LEAVE row from the queue; `group` numbers instants."""

    time: Floats
    kind: NDArray[np.int8]
    tenant: Ints
    request: Ints
    tokens: Ints
    group: Ints


class Costs(NamedTuple):
    """charge: of each request's prompt, per weight. unit: of an output token, per weight of each tenant. weight: each
    tenant's."""

    charge: Floats
    unit: Floats
    weight: Floats


class Scan(NamedTuple):
    """What the pass finds and carries along; costs are in units per weight, pairs are [tenants, tenants].

    joint: largest gap while both are backlogged. fall: how far row f fell behind column g while f was backlogged;
    top and high are the running extremes of D since both, or f, began to be. service, counter (replayed, with lifts),
    outstanding (what the tenant's running requests will still get), waiting, running, most_running: per tenant.
    dispatch: most service, not per weight, that others got while a tenant that had nothing waiting before waited to be
    admitted, dispatch_s the longest such wait; joined is the request it joined with, since and service_then its time
    and service, others_then that of the others. rest and charged are per request.
    tally: U_LOG the constant that the log itself proves and U_LOG_AT the event that set it; COUNTER_GAP of tenants in
    the queue; MISORDERED admissions that passed over a smaller counter, MISORDER the widest.
    """

    joint: Floats
    fall: Floats
    top: Floats
    high: Floats
    service: Floats
    counter: Floats
    outstanding: Floats
    waiting: Ints
    running: Ints
    most_running: Ints
    backlog_s: Floats
    backlog_service: Floats
    dispatch: Floats
    dispatch_s: Floats
    joined: Ints
    since: Floats
    service_then: Floats
    others_then: Floats
    rest: Floats
    charged: NDArray[np.bool_]
    tally: Floats


def new_scan(tenants: int, output: Floats) -> Scan:
    """The state before the first event; `output` holds each request's tokens in the whole log."""
    n = tenants
    tally = np.zeros(9)
    tally[U_LOG_AT] = tally[LAST_LEFT] = -1
    return Scan(
        joint=np.zeros((n, n)),
        fall=np.zeros((n, n)),
        top=np.zeros((n, n)),
        high=np.zeros((n, n)),
        service=np.zeros(n),
        counter=np.zeros(n),
        outstanding=np.zeros(n),
        waiting=np.zeros(n, np.int32),
        running=np.zeros(n, np.int32),
        most_running=np.zeros(n, np.int32),
        backlog_s=np.zeros(n),
        backlog_service=np.zeros(n),
        dispatch=np.zeros(n),
        dispatch_s=np.zeros(n),
        joined=np.full(n, -1, np.int32),
        since=np.zeros(n),
        service_then=np.zeros(n),
        others_then=np.zeros(n),
        rest=output.copy(),
        charged=np.zeros(len(output), np.bool_),
        tally=tally,
    )


def group_ids(time: Floats, kind: NDArray[np.int8]) -> Ints:
    """Number the instants: tokens that follow each other at one time are one instant, as one step made them."""
    if not len(kind):
        return np.zeros(0, np.int32)
    same = (kind[1:] == TOKEN) & (kind[:-1] == TOKEN) & (time[1:] == time[:-1])
    return np.concatenate([[0], np.cumsum(~same)]).astype(np.int32)


@compiled
def _spread(s: Scan) -> tuple[float, float]:
    """Least and greatest counter in the queue; (inf, -inf) if it is empty."""
    least, most = np.inf, -np.inf
    for i in range(len(s.counter)):
        if s.waiting[i] > 0:
            least, most = min(least, s.counter[i]), max(most, s.counter[i])
    return least, most


@compiled
def _enter(s: Scan, f: int, r: int, now: float, costs: Costs) -> None:
    """Request r waits: if f had none waiting, f's counter is lifted and every running extreme of its pairs starts."""
    if s.waiting[f] == 0:
        least, _ = _spread(s)
        if s.tally[QUEUE] == 0 and s.tally[LAST_LEFT] >= 0:
            least = s.counter[int(s.tally[LAST_LEFT])]
        if least < np.inf:
            s.counter[f] = max(s.counter[f], least)
        for g in range(len(s.service)):
            d = s.service[f] - s.service[g]
            s.high[f, g] = d
            if s.waiting[g] > 0:
                s.top[f, g], s.top[g, f] = d, -d
        s.since[f], s.service_then[f] = now, s.service[f]
        s.joined[f], s.others_then[f] = r, s.tally[TOTAL] - s.service[f] * costs.weight[f]
    s.waiting[f] += 1
    s.tally[QUEUE] += 1


@compiled
def _leave_queue(s: Scan, f: int, r: int, now: float) -> None:
    """Request r waits no more: if it was f's last, the backlog of f ends before anything that happens now."""
    if s.joined[f] == r:
        s.joined[f] = -1
    s.waiting[f] -= 1
    s.tally[QUEUE] -= 1
    if s.waiting[f] == 0:
        s.tally[LAST_LEFT] = f
        _end_backlog(s, f, now)


@compiled
def _end_backlog(s: Scan, f: int, now: float) -> None:
    for g in range(len(s.waiting)):
        if g != f and s.waiting[g] > 0:
            gap = s.top[f, g] + s.top[g, f]
            s.joint[f, g] = s.joint[g, f] = max(s.joint[f, g], gap)
    s.backlog_s[f] += now - s.since[f]
    s.backlog_service[f] += s.service[f] - s.service_then[f]


@compiled
def _check_admission(s: Scan, f: int, r: int, now: float, costs: Costs, tolerance: float) -> None:
    """Look at an admission before it happens: was f's counter the least, and what did the others get meanwhile?"""
    least, _ = _spread(s)
    miss = s.counter[f] - least
    if miss > tolerance:
        s.tally[MISORDERED] += 1
    s.tally[MISORDER] = max(s.tally[MISORDER], miss)
    if s.joined[f] == r:
        others = s.tally[TOTAL] - s.service[f] * costs.weight[f] - s.others_then[f]
        s.dispatch[f] = max(s.dispatch[f], others)
        s.dispatch_s[f] = max(s.dispatch_s[f], now - s.since[f])


@compiled
def _start(s: Scan, f: int, r: int, k: int, costs: Costs) -> float:
    """Request r runs: U_log takes its charge and all that f's running requests will still get. Returns the charge."""
    s.running[f] += 1
    s.tally[BATCH] += 1
    s.most_running[f] = max(s.most_running[f], s.running[f])
    s.outstanding[f] += s.rest[r] * costs.unit[f]
    cost = 0.0 if s.charged[r] else costs.charge[r]
    s.charged[r] = True
    if cost + s.outstanding[f] > s.tally[U_LOG]:
        s.tally[U_LOG], s.tally[U_LOG_AT] = cost + s.outstanding[f], k
    return cost


@compiled
def _stop(s: Scan, f: int, r: int, costs: Costs) -> None:
    s.running[f] -= 1
    s.tally[BATCH] -= 1
    s.outstanding[f] -= s.rest[r] * costs.unit[f]


@compiled
def _serve(s: Scan, f: int, cost: float, costs: Costs) -> None:
    s.service[f] += cost
    s.counter[f] += cost
    s.tally[TOTAL] += cost * costs.weight[f]


@compiled
def _update(s: Scan, f: int) -> None:
    """Take the new service of f into the extremes of all its pairs."""
    for g in range(len(s.service)):
        d = s.service[f] - s.service[g]
        if s.waiting[f] > 0:
            s.high[f, g] = max(s.high[f, g], d)
            if s.waiting[g] > 0:
                s.top[f, g], s.top[g, f] = max(s.top[f, g], d), max(s.top[g, f], -d)
        if s.waiting[g] > 0:
            s.fall[g, f] = max(s.fall[g, f], s.high[g, f] + d)


@compiled
def _take(s: Scan, rows: Rows, k: int, costs: Costs, tolerance: float) -> float:
    """Carry out event k; returns the cost per weight of what it served."""
    kind, f, r, now = rows.kind[k], rows.tenant[k], rows.request[k], rows.time[k]
    if kind == ARRIVE:
        _enter(s, f, r, now, costs)
    elif kind == ADMIT:
        _check_admission(s, f, r, now, costs, tolerance)
        _leave_queue(s, f, r, now)
        return _start(s, f, r, k, costs)
    elif kind == TOKEN:
        cost = float(rows.tokens[k] * costs.unit[f])
        s.rest[r] -= rows.tokens[k]
        s.outstanding[f] -= cost
        return cost
    elif kind == LEAVE and rows.tokens[k] < 0:
        _leave_queue(s, f, r, now)
    else:
        _stop(s, f, r, costs)
        if kind == PREEMPT:
            _enter(s, f, r, now, costs)
    return 0.0


@compiled
def scan(s: Scan, rows: Rows, costs: Costs, watch: Watch, room: Room, tolerance: float) -> None:
    """Run over the events, filling `s` and `watch`; an admission may miss the least counter by `tolerance`."""
    changed = np.zeros(len(costs.unit), np.bool_)
    last = len(rows.time) - 1
    for k in range(last + 1):
        now = rows.time[k]
        if k > 0 and now > rows.time[k - 1]:
            pass_time(watch, room, now - rows.time[k - 1])
        observe(watch, room, rows.kind[k], rows.request[k], rows.tokens[k] < 0)
        cost = _take(s, rows, k, costs, tolerance)
        if cost > 0.0:
            _serve(s, rows.tenant[k], cost, costs)
            changed[rows.tenant[k]] = True
        if k == last or rows.group[k + 1] != rows.group[k]:
            for f in range(len(changed)):
                if changed[f]:
                    _update(s, f)
            changed[:] = False
            least, most = _spread(s)
            s.tally[COUNTER_GAP] = max(s.tally[COUNTER_GAP], most - least)
    for f in range(len(changed)):
        if s.waiting[f] > 0:
            _end_backlog(s, f, rows.time[last])
            s.waiting[f] = 0
