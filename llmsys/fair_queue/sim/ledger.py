"""The compiled simulator's arrays: what it is given, by which rules it goes, and what it writes.

Knows no loop; `fast.py` holds it.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Book", "Pace", "Requests", "Rules", "new_book"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
# places in Book.tally
ARRIVED, BATCH, HELD, RESERVED, SINCE, ORDERED, EXCESS = range(7)


class Pace(NamedTuple):
    """Seconds of a decode step, as in Hardware."""

    d0: float
    d1: float
    d2: float
    floor: float


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
    pace: Pace


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
