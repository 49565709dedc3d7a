"""Strict classes: a request of a higher class goes before all of lower ones; inside a class another policy decides.

With `age_s`, a request that waited that long moves up to the next class that there is, so none starves. With
`preempt`, running requests of lower classes may be stopped for one that does not fit, whether memory or the batch's
size is the limit: lowest class first, then least progress, each at most three times. A stopped request goes back to
the head of its class. Knows no memory.
"""

import heapq
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from llmsys.fair_queue.policy.backlog import request_from, request_to
from llmsys.fair_queue.policy.protocol import QUEUED, CacheAware, Decision, Policy, Request

__all__ = ["StrictPriority"]

MOST_PREEMPTIONS = 3


@dataclass(slots=True)
class _Class:
    """Requests of one class; `inner` takes those that were stopped, in `stopped`, for running ones.

    ageing: heap of when each may move up, and of some that have left.
    """

    inner: Policy
    waiting: dict[str, Request] = field(default_factory=dict)
    stopped: deque[str] = field(default_factory=deque)
    ageing: list[tuple[float, str]] = field(default_factory=list)


@dataclass(slots=True)
class _Place:
    """Where a request is: its class now, since when, and the output tokens it has."""

    level: int
    since_s: float
    request: Request
    generated: int = 0


class StrictPriority:
    """A higher `priority` is more urgent; every class has an inner policy of its own, made by `make_inner`."""

    def __init__(self, make_inner: Callable[[], Policy], *, age_s: float | None = None, preempt: bool = False) -> None:
        self._make_inner = make_inner
        self._age_s = age_s
        self._preempt = preempt
        self._classes: dict[int, _Class] = {}
        self._places: dict[str, _Place] = {}
        self._running: dict[str, None] = {}
        self._stops: Counter[str] = Counter()

    def arrive(self, request: Request, now_s: float) -> Decision:
        """Queue the request in its class."""
        if request.id in self._places:
            raise ValueError(f"request {request.id!r} is here already; ids must differ")
        self._places[request.id] = _Place(request.priority, now_s, request)
        self._enter(request.id, now_s)
        return QUEUED

    def admit(self, now_s: float, fits: Callable[[Request], bool]) -> list[Request]:
        """Admit class after class, highest first, until a request does not fit."""
        self._age(now_s)
        admitted: list[Request] = []
        full = False

        def asked(request: Request) -> bool:
            nonlocal full
            full = not fits(request)
            return not full

        for level in sorted(self._classes, reverse=True):
            members = self._classes[level]
            while members.stopped and asked(self._places[members.stopped[0]].request):
                admitted.append(self._places[members.stopped.popleft()].request)
            if not full and members.waiting:
                fresh = members.inner.admit(now_s, asked)
                for request in fresh:
                    del members.waiting[request.id]
                admitted += fresh
            if full:
                break
        self._running.update((request.id, None) for request in admitted)
        return admitted

    def victims(self, now_s: float) -> list[str]:
        """Running requests of classes below that of the next in line: lowest first, least progress first."""
        waiting = [level for level, members in self._classes.items() if members.stopped or members.waiting]
        if not self._preempt or not waiting:
            return []
        below = [
            request_id
            for request_id in self._running
            if self._places[request_id].level < max(waiting) and self._stops[request_id] < MOST_PREEMPTIONS
        ]
        return sorted(below, key=lambda name: (self._places[name].level, self._places[name].generated))

    def tokens(self, request_id: str, n: int, now_s: float) -> None:
        """Pass on n output tokens."""
        place = self._runs(request_id)
        place.generated += n
        self._classes[place.level].inner.tokens(request_id, n, now_s)

    def cached(self, request_id: str, tokens: int, now_s: float) -> None:
        """Pass on how much of a prompt was cached, where the inner policy wants to know."""
        inner = self._classes[self._runs(request_id).level].inner
        if isinstance(inner, CacheAware):
            inner.cached(request_id, tokens, now_s)

    def finish(self, request_id: str, now_s: float) -> None:
        """End a running request."""
        self._classes[self._runs(request_id).level].inner.finish(request_id, now_s)
        self._forget(request_id)

    def cancel(self, request_id: str, now_s: float) -> None:
        """End a request wherever it is."""
        place = self._places.get(request_id)
        if place is None:
            raise ValueError(f"request {request_id!r} is neither waiting nor running")
        members = self._classes[place.level]
        members.inner.cancel(request_id, now_s)
        if request_id in members.stopped:
            members.stopped.remove(request_id)
        self._forget(request_id)

    def preempted(self, request_id: str, now_s: float) -> None:
        """Return a running request to the head of its class."""
        place = self._runs(request_id)
        del self._running[request_id]
        self._stops[request_id] += 1
        self._classes[place.level].stopped.appendleft(request_id)

    def snapshot(self) -> dict[str, Any]:
        """The state as JSON values."""
        return {
            "classes": [
                [level, members.inner.snapshot(), list(members.waiting), list(members.stopped)]
                for level, members in self._classes.items()
            ],
            "places": [[request_to(p.request), p.level, p.since_s, p.generated] for p in self._places.values()],
            "running": list(self._running),
            "stops": dict(self._stops),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over a snapshot of a policy with the same options and weights."""
        self._places = {
            values["id"]: _Place(level, since_s, request_from(values), generated)
            for values, level, since_s, generated in state["places"]
        }
        self._classes = {}
        for level, inner, waiting, stopped in state["classes"]:
            members = self._classes[level] = _Class(self._make_inner(), {}, deque(stopped))
            members.inner.restore(inner)
            for request_id in waiting:
                members.waiting[request_id] = self._places[request_id].request
                self._will_age(request_id)
        self._running = dict.fromkeys(state["running"])
        self._stops = Counter(state["stops"])

    def _enter(self, request_id: str, now_s: float) -> None:
        place = self._places[request_id]
        members = self._classes.setdefault(place.level, _Class(self._make_inner()))
        members.inner.arrive(place.request, now_s)
        members.waiting[request_id] = place.request
        self._will_age(request_id)

    def _will_age(self, request_id: str) -> None:
        if self._age_s is not None:
            place = self._places[request_id]
            heapq.heappush(self._classes[place.level].ageing, (place.since_s + self._age_s, request_id))

    def _age(self, now_s: float) -> None:
        """Move every request whose time has come to the next class above its own, lowest class first.

        In the highest class time goes on, so that a request moves at once when there is a class above.
        """
        if self._age_s is None:
            return
        for level, above in pairwise(sorted(self._classes)):
            members = self._classes[level]
            while members.ageing and members.ageing[0][0] <= now_s:
                due_s, request_id = heapq.heappop(members.ageing)
                place = self._places.get(request_id)
                if place is None or request_id not in members.waiting or place.since_s + self._age_s != due_s:
                    continue
                members.inner.cancel(request_id, now_s)
                del members.waiting[request_id]
                place.level, place.since_s = above, due_s
                self._enter(request_id, now_s)

    def _runs(self, request_id: str) -> _Place:
        if request_id not in self._running:
            raise ValueError(f"request {request_id!r} is not running")
        return self._places[request_id]

    def _forget(self, request_id: str) -> None:
        place = self._places.pop(request_id)
        self._classes[place.level].waiting.pop(request_id, None)
        self._running.pop(request_id, None)
        self._stops.pop(request_id, None)
