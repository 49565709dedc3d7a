"""Which of one tenant's requests goes first: a queue by urgency in place of by arrival.

Between tenants the counters decide; so nothing here can take service from another tenant.
"""

import sys
from bisect import insort
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from llmsys.fair_queue.policy.protocol import Request

__all__ = ["Deadline", "Slack", "Urgency", "UrgencyQueue"]

AT_ONCE = -sys.float_info.max


class Urgency(Protocol):
    """A number that is less for what must go first; it does not change while the request waits."""

    def __call__(self, request: Request, arrival_s: float) -> float: ...


@dataclass(slots=True, frozen=True)
class Deadline:
    """Earliest deadline first: arrival + the request's own limit to its first token, or `ttft_s` (GIE's EDF).

    >>> Deadline(2.0)(Request("r", "a", 10, 10), 5.0)
    7.0
    """

    ttft_s: float

    def __call__(self, request: Request, arrival_s: float) -> float:
        return arrival_s + (self.ttft_s if request.ttft_slo_s is None else request.ttft_slo_s)


@dataclass(slots=True, frozen=True)
class Slack:
    """Least slack first: the end that both limits allow, less the time that serving takes.

    slack + now = arrival + ttft + tpot_s n_q - (token_s n_p + step_s n_q), with n_q = max_tokens. Now is the same for
    all, so the order does not depend on it.
    """

    ttft_s: float
    tpot_s: float
    token_s: float
    step_s: float

    def __call__(self, request: Request, arrival_s: float) -> float:
        spare_s = (self.tpot_s - self.step_s) * request.max_tokens - self.token_s * request.prompt_tokens
        return Deadline(self.ttft_s)(request, arrival_s) + spare_s


class UrgencyQueue:
    """A deque's methods on a list by urgency; ties keep the order of `append`.

    `urgency_of` gives None for a request that ran before: it goes ahead of all others, wherever it is appended.
    """

    def __init__(self, urgency_of: Callable[[Request], float | None]) -> None:
        self._urgency_of = urgency_of
        self._items: list[tuple[float, int, Request]] = []
        self._newest = 0
        self._foremost = 0

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Request]:
        return (request for _, _, request in self._items)

    def __getitem__(self, index: int, /) -> Request:
        return self._items[index][2]

    def append(self, request: Request, /) -> None:
        """Insert by urgency, behind its equals."""
        urgency = self._urgency_of(request)
        self._newest += 1
        insort(self._items, (AT_ONCE if urgency is None else urgency, self._newest, request))

    def appendleft(self, request: Request, /) -> None:
        """Put the request ahead of all."""
        self._foremost -= 1
        self._items.insert(0, (AT_ONCE, self._foremost, request))

    def popleft(self) -> Request:
        """Take the most urgent."""
        return self._items.pop(0)[2]

    def remove(self, request: Request, /) -> None:
        """Take this one out. Raises ValueError if it is not here."""
        at = next((index for index, item in enumerate(self._items) if item[2] is request), None)
        if at is None:
            raise ValueError(f"request {request.id!r} is not in the queue")
        del self._items[at]
