"""The simulator on arrays: the loop of `reference.py`, with whole stretches of decode steps in closed form.

Between two events (an arrival, an end, an admission that can succeed) the batch is constant, so s steps of B requests
that hold K tokens take s (d0 + d1 B) + d2 (s K + B s (s - 1) / 2) seconds. A request is known by the decode step in
which it ends, so such a stretch touches no request; the batch is kept by that step, last first, so those that end are
its tail. Serves first come first served, requests per minute, LCF and VTC with linear
costs and any prediction, under sum and peak reservation; `run.py` knows what else there is.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmsys.fair_queue.compiled import compiled
from llmsys.fair_queue.sim.queues import STEP, WAITING, Queues, least_queue, lowered, next_key, pop_head, push, touch

__all__ = ["Book", "Requests", "Rules", "new_book", "simulate_arrays"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
MINUTE_S = 60.0
# places in Book.tally
ARRIVED, BATCH, HELD, RESERVED, SINCE, ORDERED, EXCESS = range(7)
FOREVER = 1 << 40


class Requests(NamedTuple):
    """Inputs by arrival: queue and tenant, seconds, tokens, whether it fits an empty machine, and what it is guessed to
    generate (written at admission where guesses are learned)."""

    queue: Ints
    tenant: Ints
    arrival: Floats
    prompt: Ints
    output: Ints
    holds: NDArray[np.bool_]
    guess: Floats


class Rules(NamedTuple):
    """Policy, machine and step model: prices and each queue's weight; `rpm` 0 for no limit; seconds as in Hardware.

    `predict`: requests are charged one by one against a guess, in place of all at once; `learn`: guesses are learned.
    """

    weight: Floats
    wp: float
    wq: float
    lift: bool
    predict: bool
    learn: bool
    rpm: int
    memory: int
    max_batch: int
    max_prefill: int
    admit_every: int
    peak: bool
    p0: float
    p1: float
    d0: float
    d1: float
    d2: float


class Book(NamedTuple):
    """Per request: times, refusal, decode step of its end, cost charged, place in the order of admission.

    `batch` and `new` list running requests; `mean` is each tenant's learned length (NaN at first); `accepted` links the
    acceptances of a tenant within a minute from `oldest` to `newest`, `recent` counts them.
    """

    admit: Floats
    first: Floats
    finish: Floats
    refused: NDArray[np.bool_]
    last_step: Ints
    charged: Floats
    place: Ints
    order: Ints
    batch: Ints
    new: Ints
    mean: Floats
    accepted: Ints
    oldest: Ints
    newest: Ints
    recent: Ints
    tally: Ints


def new_book(requests: int, tenants: int, max_batch: int) -> Book:
    """Empty books."""
    room = min(max_batch, requests) + 1
    nothing = np.full(requests, np.nan)
    return Book(
        admit=nothing,
        first=nothing.copy(),
        finish=nothing.copy(),
        refused=np.zeros(requests, np.bool_),
        last_step=np.zeros(requests, np.int64),
        charged=np.zeros(requests),
        place=np.full(requests, -1, np.int64),
        order=np.full(requests, -1, np.int64),
        batch=np.zeros(room, np.int64),
        new=np.zeros(room, np.int64),
        mean=np.full(tenants, np.nan),
        accepted=np.full(requests, -1, np.int64),
        oldest=np.full(tenants, -1, np.int64),
        newest=np.full(tenants, -1, np.int64),
        recent=np.zeros(tenants, np.int64),
        tally=np.zeros(7, np.int64),
    )


@compiled
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


@compiled
def _deliver(b: Book, q: Requests, queues: Queues, rules: Rules, now: float) -> None:
    while b.tally[ARRIVED] < len(q.arrival) and q.arrival[b.tally[ARRIVED]] <= now:
        r = b.tally[ARRIVED]
        b.tally[ARRIVED] += 1
        if q.holds[r] and (rules.rpm == 0 or _accepts(b, q, rules, r)):
            push(queues, q.queue[r], r, rules.lift)
        else:
            b.refused[r] = True


@compiled
def _settle(b: Book, q: Requests, queues: Queues, rules: Rules, r: int, due: float) -> None:
    i = q.queue[r]
    touch(queues, i)
    queues.counter[i] += (due - b.charged[r]) / rules.weight[i]
    b.charged[r] = due
    lowered(queues, i)


@compiled
def _cost(q: Requests, rules: Rules, r: int, tokens: float) -> float:
    return float(rules.wp * q.prompt[r] + rules.wq * tokens)


@compiled
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


@compiled
def _fits(b: Book, q: Requests, queues: Queues, rules: Rules, r: int, joining: int) -> bool:
    """Whether r may start; if memory says no under peak, EXCESS keeps by how much: it shrinks by 1 a step at most."""
    b.tally[EXCESS] = FOREVER
    if b.tally[BATCH] >= rules.max_batch or (joining > 0 and joining + q.prompt[r] > rules.max_prefill):
        return False
    if rules.peak:
        b.tally[EXCESS] = _peak(b, q, queues, r) - rules.memory + 1
        return bool(b.tally[EXCESS] <= 0)
    return bool(b.tally[RESERVED] + q.prompt[r] + q.output[r] <= rules.memory)


@compiled
def _join_batch(b: Book, q: Requests, queues: Queues, r: int) -> None:
    """Insert r behind all that have as many tokens left: its first token comes before their next."""
    at = b.tally[BATCH]
    while at > 0 and _left(b, queues, b.batch[at - 1]) < q.output[r]:
        b.batch[at] = b.batch[at - 1]
        at -= 1
    b.batch[at] = r
    b.last_step[r] = queues.size[STEP] + q.output[r]
    b.tally[BATCH] += 1
    b.tally[HELD] += q.prompt[r]
    b.tally[RESERVED] += q.prompt[r] + q.output[r]


@compiled
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


@compiled
def _charge(b: Book, q: Requests, queues: Queues, rules: Rules, r: int) -> None:
    """Charge r for what it has generated, as far as its guess does not cover it."""
    due = _cost(q, rules, r, q.output[r] - _left(b, queues, r))
    if due > b.charged[r]:
        _settle(b, q, queues, rules, r, due)


@compiled
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


@compiled
def _end_tail(b: Book, q: Requests, queues: Queues, rules: Rules, now: float) -> None:
    """End the requests with nothing left, in the order in which they were admitted."""
    first = b.tally[BATCH]
    while first > 0 and _left(b, queues, b.batch[first - 1]) == 0:
        first -= 1
    if b.tally[BATCH] - first == 1:
        _end(b, q, queues, rules, b.batch[first], now)
    elif b.tally[BATCH] > first:
        ended = b.batch[first : b.tally[BATCH]]
        for r in ended[np.argsort(b.place[ended])]:
            _end(b, q, queues, rules, r, now)
    b.tally[BATCH] = first


@compiled
def _span(b: Book, rules: Rules, steps: int) -> float:
    """Seconds of this many decode steps of the batch as it is."""
    n = b.tally[BATCH]
    return float(
        steps * (rules.d0 + rules.d1 * n) + rules.d2 * (steps * b.tally[HELD] + n * (steps * (steps - 1)) // 2)
    )


@compiled
def _steps(b: Book, q: Requests, queues: Queues, rules: Rules, now: float) -> int:
    """Steps until something can change: an end, an admission that is due or may succeed, or an arrival."""
    steps = _left(b, queues, b.batch[b.tally[BATCH] - 1])
    if queues.size[WAITING] > 0 and b.tally[SINCE] < rules.admit_every:
        steps = min(steps, rules.admit_every - b.tally[SINCE])
    elif queues.size[WAITING] > 0:
        steps = min(steps, _blocked_steps(b, queues, rules))
    if b.tally[ARRIVED] == len(q.arrival):
        return steps
    # the last step that ends before the next arrival; a step in which it comes is taken alone
    gap = q.arrival[b.tally[ARRIVED]] - now
    low, high = 0, steps
    while low < high:
        middle = (low + high + 1) // 2
        if _span(b, rules, middle) < gap:
            low = middle
        else:
            high = middle - 1
    return max(low, 1)


@compiled
def _blocked_steps(b: Book, queues: Queues, rules: Rules) -> int:
    """Steps for which the request that does not fit stays the one that is chosen, and cannot come to fit."""
    i = least_queue(queues)
    growth = queues.running[i] * rules.wq / rules.weight[i]
    room = next_key(queues) - queues.counter[i]
    if growth == 0.0 or room == np.inf:
        return int(b.tally[EXCESS])
    return int(max(min(int(np.ceil(room / growth)), b.tally[EXCESS]), 1))


@compiled
def _decode(b: Book, q: Requests, queues: Queues, rules: Rules, now: float) -> float:
    steps = _steps(b, q, queues, rules, now)
    now += _span(b, rules, steps)
    _deliver(b, q, queues, rules, now)
    queues.size[STEP] += steps
    if rules.predict:
        for index in range(b.tally[BATCH]):
            _charge(b, q, queues, rules, b.batch[index])
    b.tally[HELD] += steps * b.tally[BATCH]
    b.tally[SINCE] += steps
    _end_tail(b, q, queues, rules, now)
    return now


@compiled
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
