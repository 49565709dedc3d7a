"""The simulator on arrays: the loop of `reference.py`, with whole stretches of decode steps in closed form.

Between two events (an arrival, an end, an admission that can succeed) the batch is constant, so s steps of B requests
that hold K tokens take s (d0 + d1 B) + d2 (s K + B s (s - 1) / 2) seconds. A request is known by the decode step in
which it ends, so such a stretch touches no request; the batch is kept by that step, last first, so those that end are
its tail. Serves first come first served, requests per minute, LCF and VTC with linear
costs and any prediction, under sum and peak reservation; `run.py` knows what else there is.
"""

import numpy as np

from llmsys.fair_queue.sim.ledger import (
    ARRIVED,
    BATCH,
    EXCESS,
    HELD,
    ORDERED,
    RESERVED,
    SINCE,
    Book,
    Pace,
    Requests,
    Rules,
)
from llmsys.fair_queue.sim.queues import STEP, WAITING, Queues, least_queue, lowered, next_key, pop_head, push, touch
from llmsys.gpu.compiled import compiled, inlined

__all__ = ["simulate_arrays"]

MINUTE_S = 60.0
FOREVER = 1 << 40


@inlined
def _accepts(b: Book, q: Requests, rules: Rules, r: int) -> bool:
    """Whether r's tenant had fewer than `rpm` acceptances in the last minute; if so, r is one."""
    t = q.tenant[r]
    while b.recent[t] > 0 and q.arrival[r] - q.arrival[b.oldest[t]] > MINUTE_S:
        b.oldest[t] = b.accepted[b.oldest[t]]
        b.recent[t] -= 1
    if b.recent[t] >= rules.rpm:
        return False
    if b.recent[t] == 0:
        b.oldest[t] = r
    else:
        b.accepted[b.newest[t]] = r
    b.newest[t] = r
    b.recent[t] += 1
    return True


@inlined
def _deliver(b: Book, q: Requests, queues: Queues, rules: Rules, now: float) -> None:
    while b.tally[ARRIVED] < len(q.arrival) and q.arrival[b.tally[ARRIVED]] <= now:
        r = b.tally[ARRIVED]
        b.tally[ARRIVED] += 1
        if q.holds[r] and (rules.rpm == 0 or _accepts(b, q, rules, r)):
            push(queues, q.queue[r], r, rules.lift)
        else:
            b.refused[r] = True


@inlined
def _settle(b: Book, q: Requests, queues: Queues, rules: Rules, r: int, due: float) -> None:
    i = q.queue[r]
    touch(queues, i)
    queues.counter[i] += (due - b.charged[r]) / rules.weight[i]
    b.charged[r] = due
    lowered(queues, i)


@inlined
def _cost(q: Requests, rules: Rules, r: int, tokens: float) -> float:
    return float(rules.wp * q.prompt[r] + rules.wq * tokens)


@inlined
def _left(b: Book, queues: Queues, r: int) -> int:
    """Tokens that r has still to generate."""
    return int(b.last_step[r] - queues.size[STEP])


@compiled
def _peak(b: Book, q: Requests, queues: Queues, r: int) -> int:
    """The most tokens held at any later end of a request, if r joins and all run on: `machine.peak_tokens`."""
    mine, held, most, rank, placed = max(q.output[r] - 1, 0), 0, 0, 0, False
    for index in range(b.tally[BATCH] + 1):
        last = index == b.tally[BATCH]
        left = 0 if last else _left(b, queues, b.batch[index])
        if not placed and (last or left - 1 < mine):
            placed = True
            rank += 1
            held += q.prompt[r] + 1
            most = max(most, mine * rank + held)
        if not last:
            other = b.batch[index]
            rank += 1
            held += q.prompt[other] + max(q.output[other] - left, 1)
            most = max(most, max(left - 1, 0) * rank + held)
    return most


@inlined
def _fits(b: Book, q: Requests, queues: Queues, rules: Rules, r: int, joining: int) -> bool:
    """Whether r may start; if memory says no under peak, EXCESS keeps by how much: it shrinks by 1 a step at most."""
    b.tally[EXCESS] = FOREVER
    if b.tally[BATCH] >= rules.max_batch or (joining > 0 and joining + q.prompt[r] > rules.max_prefill):
        return False
    if rules.peak:
        b.tally[EXCESS] = _peak(b, q, queues, r) - rules.memory + 1
        return bool(b.tally[EXCESS] <= 0)
    return bool(b.tally[RESERVED] + q.prompt[r] + q.output[r] <= rules.memory)


@inlined
def _join_batch(b: Book, q: Requests, queues: Queues, r: int) -> None:
    """Insert r behind all that have as many tokens left: its first token comes before their next."""
    at, batch, last_step = b.tally[BATCH], b.batch, b.last_step
    ends = queues.size[STEP] + q.output[r]
    while at > 0 and last_step[batch[at - 1]] < ends:
        batch[at] = batch[at - 1]
        at -= 1
    batch[at] = r
    last_step[r] = ends
    b.tally[BATCH] += 1
    b.tally[HELD] += q.prompt[r]
    b.tally[RESERVED] += q.prompt[r] + q.output[r]


@inlined
def _admit(b: Book, q: Requests, queues: Queues, rules: Rules, now: float) -> tuple[int, int]:
    """Admit while the chosen request fits; returns how many, listed in b.new, and their prompt tokens."""
    new, prefill = 0, 0
    while True:
        i = least_queue(queues)
        if i < 0 or not _fits(b, q, queues, rules, queues.head[i], prefill):
            return new, prefill
        r = queues.head[i]
        pop_head(queues, i)
        queues.running[i] += 1
        if rules.learn:
            mean = b.mean[q.tenant[r]]
            q.guess[r] = 0.0 if np.isnan(mean) else mean
        _settle(b, q, queues, rules, r, _cost(q, rules, r, q.guess[r]))
        b.admit[r] = now
        b.place[r] = b.tally[ORDERED]
        b.order[b.tally[ORDERED]] = r
        b.tally[ORDERED] += 1
        _join_batch(b, q, queues, r)
        b.new[new] = r
        new += 1
        prefill += q.prompt[r]


@inlined
def _charge(b: Book, q: Requests, queues: Queues, rules: Rules, r: int) -> None:
    """Charge r for what it has generated, as far as its guess does not cover it."""
    due = _cost(q, rules, r, q.output[r] - _left(b, queues, r))
    if due > b.charged[r]:
        _settle(b, q, queues, rules, r, due)


@inlined
def _end(b: Book, q: Requests, queues: Queues, rules: Rules, r: int, now: float) -> None:
    i, size = q.queue[r], q.prompt[r] + q.output[r]
    b.finish[r] = now
    b.tally[HELD] -= size
    b.tally[RESERVED] -= size
    touch(queues, i)
    queues.running[i] -= 1
    if rules.learn:
        mean, length = b.mean[q.tenant[r]], q.output[r]
        b.mean[q.tenant[r]] = length if np.isnan(mean) else (4.0 * mean + length) / 5.0
    if rules.predict:
        _settle(b, q, queues, rules, r, _cost(q, rules, r, q.output[r]))


@inlined
def _end_tail(b: Book, q: Requests, queues: Queues, rules: Rules, now: float) -> None:
    """End the requests with nothing left, in the order in which they were admitted."""
    first, batch, last_step = b.tally[BATCH], b.batch, b.last_step
    while first > 0 and last_step[batch[first - 1]] == queues.size[STEP]:
        first -= 1
    if b.tally[BATCH] - first == 1:
        _end(b, q, queues, rules, b.batch[first], now)
    elif b.tally[BATCH] > first:
        ended = b.batch[first : b.tally[BATCH]]
        for r in ended[np.argsort(b.place[ended])]:
            _end(b, q, queues, rules, r, now)
    b.tally[BATCH] = first


@compiled
def _span(pace: Pace, n: int, held: int, steps: int) -> float:
    """Seconds of this many decode steps of n requests that hold `held` tokens at first; some may last the floor."""
    slow = 0
    first = pace.d0 + pace.d1 * n + pace.d2 * held
    if first < pace.floor:
        slow = steps if pace.d2 == 0.0 else min(steps, int(np.ceil((pace.floor - first) / (pace.d2 * n))))
        held += slow * n
        steps -= slow
    return float(
        slow * pace.floor + steps * (pace.d0 + pace.d1 * n) + pace.d2 * (steps * held + n * (steps * (steps - 1)) // 2)
    )


@inlined
def _steps(b: Book, q: Requests, queues: Queues, rules: Rules, now: float) -> int:
    """Steps until something can change: an end, an admission that is due or may succeed, or an arrival."""
    steps = _left(b, queues, b.batch[b.tally[BATCH] - 1])
    if queues.size[WAITING] > 0 and b.tally[SINCE] < rules.admit_every:
        steps = min(steps, rules.admit_every - b.tally[SINCE])
    elif queues.size[WAITING] > 0:
        steps = min(steps, _blocked_steps(b, queues, rules))
    n, held = b.tally[BATCH], b.tally[HELD]
    gap = _arrival_that_matters(b, q, queues, now + _span(rules.pace, n, held, steps)) - now
    if gap == np.inf:
        return steps
    # the last step that ends before the arrival; a step in which it comes is taken alone
    low, high = 0, steps
    while low < high:
        middle = (low + high + 1) // 2
        if _span(rules.pace, n, held, middle) < gap:
            low = middle
        else:
            high = middle - 1
    return max(low, 1)


@inlined
def _arrival_that_matters(b: Book, q: Requests, queues: Queues, until: float) -> float:
    """When the first request before `until` comes that does not join others of its queue; infinity if none does."""
    for r in range(b.tally[ARRIVED], len(q.arrival)):
        if q.arrival[r] > until:
            return np.inf
        if q.holds[r] and queues.waiting[q.queue[r]] == 0:
            return float(q.arrival[r])
    return np.inf


@inlined
def _blocked_steps(b: Book, queues: Queues, rules: Rules) -> int:
    """Steps for which the request that does not fit stays the one that is chosen, and cannot come to fit."""
    i = least_queue(queues)
    growth = queues.running[i] * rules.wq / rules.weight[i]
    room = next_key(queues) - queues.counter[i]
    if growth == 0.0 or room == np.inf:
        return int(b.tally[EXCESS])
    return int(max(min(int(np.ceil(room / growth)), b.tally[EXCESS]), 1))


@inlined
def _decode(b: Book, q: Requests, queues: Queues, rules: Rules, now: float) -> float:
    steps = _steps(b, q, queues, rules, now)
    now += _span(rules.pace, b.tally[BATCH], b.tally[HELD], steps)
    _deliver(b, q, queues, rules, now)
    queues.size[STEP] += steps
    if rules.predict:
        for index in range(b.tally[BATCH]):
            _charge(b, q, queues, rules, b.batch[index])
    b.tally[HELD] += steps * b.tally[BATCH]
    b.tally[SINCE] += steps
    _end_tail(b, q, queues, rules, now)
    return now


@inlined
def _prefill(b: Book, q: Requests, queues: Queues, rules: Rules, now: float, new: int) -> None:
    """Give those that were admitted their first token; the clock has run already."""
    _deliver(b, q, queues, rules, now)
    b.tally[SINCE] = 0
    for r in b.new[:new]:
        if q.output[r] > 0:
            b.last_step[r] -= 1
            b.tally[HELD] += 1
            b.first[r] = now
            _charge(b, q, queues, rules, r)
    _end_tail(b, q, queues, rules, now)


@compiled
def simulate_arrays(b: Book, q: Requests, queues: Queues, rules: Rules) -> None:
    """Serve all requests, filling the book."""
    now = 0.0
    while True:
        _deliver(b, q, queues, rules, now)
        waiting = queues.size[WAITING]
        new, prefill = 0, 0
        if waiting > 0 and (b.tally[BATCH] == 0 or b.tally[SINCE] >= rules.admit_every):
            new, prefill = _admit(b, q, queues, rules, now)
        if new > 0:
            now += rules.p0 + rules.p1 * prefill
            _prefill(b, q, queues, rules, now, new)
        elif b.tally[BATCH] > 0:
            now = _decode(b, q, queues, rules, now)
        elif b.tally[ARRIVED] < len(q.arrival):
            now = max(now, q.arrival[b.tally[ARRIVED]])
        else:
            return
