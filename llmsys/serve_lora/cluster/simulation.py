"""A cluster on a trace, by events: arrivals, step boundaries, starts, releases, consolidation.

Requests that no replica can take wait in one queue, first come first served; while some wait, replicas are started up
to the limit. A replica with nothing to do is released when its keep-alive is over. Light replicas are emptied by moving
their requests, which are computed again (Punica, §5). Knows nothing of prices or tables.
"""

import heapq
import math
from bisect import insort
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import count

from llmsys.artifacts import TraceRecord
from llmsys.serve_lora.cluster.accounts import Accounts
from llmsys.serve_lora.cluster.jobs import Job
from llmsys.serve_lora.cluster.profile import ReplicaProfile
from llmsys.serve_lora.cluster.replica import Replica
from llmsys.serve_lora.cluster.routing import Router

__all__ = ["ClusterSettings", "Outcome", "simulate"]


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """A cluster's limits. keep_alive_s: idle seconds until a replica is released; infinite keeps all to the end."""

    gpus: int = 4
    keep_alive_s: float = 6.0
    consolidate_s: float = 10.0
    max_moves: int = 3


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it: every job in the order of the trace, those that never fit, and the accounts."""

    jobs: list[Job]
    refused: list[Job]
    accounts: Accounts
    cold_starts: int
    peak_replicas: int
    end_s: float


def simulate(
    trace: Iterable[TraceRecord], profile: ReplicaProfile, router: Router, settings: ClusterSettings
) -> Outcome:
    """Run a trace through a cluster that begins with no replica at all."""
    return _Cluster(profile, router, settings).run(trace)


class _Cluster:
    def __init__(self, profile: ReplicaProfile, router: Router, settings: ClusterSettings) -> None:
        self._profile, self._router, self._settings = profile, router, settings
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._sequence = count()
        self._numbers = count()
        self._replicas: list[Replica] = []
        self._leaving: set[int] = set()
        self._queue: list[Job] = []
        self._unfinished = 0
        self._accounts = Accounts()
        self._starts = self._peak = 0

    def run(self, trace: Iterable[TraceRecord]) -> Outcome:
        jobs, refused = [], []
        for order, record in enumerate(trace):
            job = Job(record, order, record.adapter or "")
            if max(record.prompt_tokens, 1) + max(record.output_tokens, 1) > self._profile.kv_tokens:
                refused.append(job)
                continue
            jobs.append(job)
            self._at(record.arrival_s, partial(self._arrive, job))
        self._unfinished = len(jobs)
        if self._router.consolidates and math.isfinite(self._settings.consolidate_s) and jobs:
            self._at(jobs[0].record.arrival_s + self._settings.consolidate_s, self._consolidate)
        now_s = 0.0
        while self._events:
            now_s, _, action = heapq.heappop(self._events)
            action(now_s)
            if not self._events or self._events[0][0] > now_s:
                self._begin_all(now_s)  # what comes at one moment shares a step
        for replica in list(self._replicas):
            self._release(replica, now_s)
        assert self._unfinished == 0, f"{self._unfinished} requests are left"
        return Outcome(jobs, refused, self._accounts, self._starts, self._peak, now_s)

    def _at(self, time_s: float, action: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (time_s, next(self._sequence), action))

    def _arrive(self, job: Job, now_s: float) -> None:
        insort(self._queue, job, key=lambda job: job.order)
        self._dispatch(now_s)

    def _dispatch(self, now_s: float) -> None:
        """Admit from the head of the queue as long as it fits somewhere; then start what is missing."""
        waiting = list(self._queue)
        for job in waiting:
            replica = self._router.route(job, self._stayers())
            if replica is not None:
                self._queue.remove(job)
                self._admit(replica, job, now_s)
            elif not self._router.merged:
                break
        self._start_missing(now_s)

    def _stayers(self) -> list[Replica]:
        return [replica for replica in self._replicas if replica.number not in self._leaving]

    def _admit(self, replica: Replica, job: Job, now_s: float) -> None:
        if not replica.running and replica.stretch is None:
            self._accounts.idle(replica.owner, now_s - replica.idle_since_s)
            replica.idle_since_s = now_s
        replica.admit(job)
        if replica.stretch is not None:
            self._cut(replica, now_s)

    def _begin_all(self, now_s: float) -> None:
        for replica in self._replicas:
            if replica.running and replica.stretch is None:
                stretch = replica.plan(now_s)
                self._schedule(replica, stretch.end_s(stretch.steps), stretch.steps)

    def _cut(self, replica: Replica, now_s: float) -> None:
        """End the stretch with the step under way, so that the batch can change."""
        assert replica.stretch is not None
        steps = replica.stretch.begun(now_s)
        self._schedule(replica, replica.stretch.end_s(steps), steps)

    def _schedule(self, replica: Replica, end_s: float, steps: int) -> None:
        replica.version += 1
        version = replica.version
        self._at(end_s, lambda now_s: self._boundary(replica, version, steps, now_s))

    def _boundary(self, replica: Replica, version: int, steps: int, now_s: float) -> None:
        if version != replica.version:
            return
        self._unfinished -= len(replica.settle(steps, self._accounts.step))
        for job in replica.newest_over_memory():
            insort(self._queue, job, key=lambda job: job.order)
        if replica.number in self._leaving:
            self._empty(replica)
        if not replica.running:
            replica.idle_since_s = now_s
        self._dispatch(now_s)
        self._leaving.discard(replica.number)
        if not replica.running:
            self._expire_later(replica, now_s)

    def _empty(self, replica: Replica) -> None:
        """Move a light replica's requests to the queue's place in line, if the others can take all of them."""
        others = [other for other in self._stayers() if other is not replica and other.running]
        if _room(others, replica.running, self._profile):
            for job in list(replica.running):
                replica.take_out(job)
                insort(self._queue, job, key=lambda job: job.order)

    def _consolidate(self, now_s: float) -> None:
        """Let the lightest busy replica leave, if its requests fit elsewhere and may still be moved."""
        busy = [replica for replica in self._replicas if replica.running]
        if len(busy) > 1 and not self._queue:
            lightest = min(busy, key=lambda replica: (len(replica.running), -replica.number))
            others = [replica for replica in busy if replica is not lightest]
            movable = all(job.moves < self._settings.max_moves for job in lightest.running)
            if movable and lightest.stretch is not None and _room(others, lightest.running, self._profile):
                self._leaving.add(lightest.number)
                self._cut(lightest, now_s)
        if self._unfinished:
            self._at(now_s + self._settings.consolidate_s, self._consolidate)

    def _start_missing(self, now_s: float) -> None:
        """Start replicas for what waits, as far as those that are starting will not take it."""
        if self._router.merged:
            for job in list(self._queue):
                has_own = any(replica.merged_for == job.adapter for replica in self._replicas)
                if not has_own and (len(self._replicas) < self._settings.gpus or self._give_way(now_s)):
                    self._start(job, now_s)
            return
        starting = sum(not replica.ready for replica in self._replicas)
        while len(self._queue) > starting * self._profile.max_batch and len(self._replicas) < self._settings.gpus:
            self._start(self._queue[0], now_s)
            starting += 1

    def _give_way(self, now_s: float) -> bool:
        """Release an idle replica whose adapter nobody waits for; whether there was one."""
        wanted = {job.adapter for job in self._queue}
        for replica in self._replicas:
            if replica.ready and not replica.running and replica.merged_for not in wanted:
                self._release(replica, now_s)
                return True
        return False

    def _start(self, job: Job, now_s: float) -> None:
        merged_for = job.adapter if self._router.merged else None
        replica = Replica(next(self._numbers), self._profile, start_s=now_s, owner=job.tenant, merged_for=merged_for)
        self._replicas.append(replica)
        self._starts += 1
        self._peak = max(self._peak, len(self._replicas))
        self._at(now_s + self._profile.cold_start_s, lambda ready_s: self._ready(replica, ready_s))

    def _ready(self, replica: Replica, now_s: float) -> None:
        replica.ready = True
        replica.idle_since_s = now_s
        self._accounts.start(replica.owner, now_s - replica.start_s)
        self._dispatch(now_s)
        if not replica.running:
            self._expire_later(replica, now_s)

    def _expire_later(self, replica: Replica, now_s: float) -> None:
        if not math.isfinite(self._settings.keep_alive_s):
            return
        replica.version += 1
        version = replica.version

        def expire(at_s: float) -> None:
            if version == replica.version and replica in self._replicas and not replica.running:
                self._release(replica, at_s)

        self._at(now_s + self._settings.keep_alive_s, expire)

    def _release(self, replica: Replica, now_s: float) -> None:
        self._accounts.idle(replica.owner, now_s - replica.idle_since_s)
        self._accounts.machine_s += now_s - replica.start_s
        self._replicas.remove(replica)


def _room(others: list[Replica], jobs: list[Job], profile: ReplicaProfile) -> bool:
    """Whether other replicas have places and memory for all of these jobs, each counted once."""
    places = {other.number: profile.max_batch - len(other.running) for other in others}
    tokens = {other.number: profile.kv_tokens - other.held_tokens() - len(other.running) for other in others}
    for job in sorted(jobs, key=lambda job: -job.known):
        fitting = [number for number in places if places[number] > 0 and tokens[number] > job.known + 1]
        if not fitting:
            return False
        chosen = min(fitting, key=lambda number: tokens[number])
        places[chosen] -= 1
        tokens[chosen] -= job.known + 1
    return True
