"""Who is sent next, and where: the queue between clients and backends, and every charge.

An exchange goes submit → begin (called back when it is admitted) → tokens… → ended, or leaves by `give_up` at any
point. Times are `time.monotonic`. Knows no HTTP: what an exchange does with its backend is its own.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from llmsys.artifacts import Event
from llmsys.fair_queue.gateway.accounts import Account, Histogram
from llmsys.fair_queue.gateway.backend import Backend
from llmsys.fair_queue.gateway.estimate import PromptEstimator
from llmsys.fair_queue.gateway.journal import Journal, NoJournal
from llmsys.fair_queue.gateway.ledger import Ledger
from llmsys.fair_queue.gateway.queued import Queued
from llmsys.fair_queue.gateway.scheduler import Scheduler
from llmsys.fair_queue.gateway.sse import Usage
from llmsys.fair_queue.policy import Request

__all__ = ["Dispatcher", "Job", "QueueLimits", "Refusal"]

HELD_BACK = 8


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """Requests that may wait, per tenant and in all, and for how many seconds."""

    per_tenant: int = 1000
    total: int = 10_000
    timeout_s: float = 300.0


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request was not queued: an HTTP status, a reason for metrics, a sentence, seconds until a retry."""

    status: int
    reason: str
    message: str
    retry_after_s: int | None = None


class Job(Protocol):
    """What the dispatcher calls back."""

    queued: Queued

    def begin(self, backend: Backend) -> None:
        """The request is admitted: send it to this backend."""

    def timed_out(self) -> None:
        """The request waited too long and is off the queue."""


class Dispatcher:
    """Queues exchanges by the scheduler's order and sends them as backends' windows allow."""

    def __init__(
        self,
        scheduler: Scheduler,
        backends: Sequence[Backend],
        ledger: Ledger,
        journal: Journal | NoJournal,
        estimator: PromptEstimator,
        limits: QueueLimits,
    ) -> None:
        self.scheduler = scheduler
        self.backends = backends
        self.waited = Histogram()
        self.ttft = Histogram()
        self.refused: dict[str, int] = {}
        self._ledger = ledger
        self._journal = journal
        self._estimator = estimator
        self._limits = limits
        self._jobs: dict[str, Job] = {}
        self._waiting: dict[str, Job] = {}
        self._reserved: dict[str, Backend] = {}
        self._fresh: list[Queued] = []
        self._pumping = False
        self._start_s = self._logged_s = time.monotonic()

    def now_s(self) -> float:
        """Seconds on the journal's clock."""
        self._logged_s = max(self._logged_s, time.monotonic())
        return round(self._logged_s - self._start_s, 6)

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Requests at backends."""
        return len(self._jobs) - len(self._waiting)

    def submit(self, job: Job) -> Refusal | None:
        """Queue a job, or say why not. It may begin before this returns."""
        queued = job.queued
        account, request, now_s = queued.account, queued.request, time.monotonic()
        refusal = self._refusal(account, request, now_s)
        if refusal is None:
            self.charge()
            self._ledger.arriving(account)
            decision = self.scheduler.arrive(request, now_s)
            if not decision.accepted:
                wait_s = max(1, round(decision.retry_after_s + 0.5))
                refusal = Refusal(429, "policy", f"refused by the policy: {decision.reason}", wait_s)
        if refusal is not None:
            self.refuse(request, refusal.reason)
            return refusal
        queued.arrived_s = now_s
        account.accept(now_s)
        self._ledger.arrived(account)
        self._jobs[request.id] = self._waiting[request.id] = job
        self._record(now_s, "arrive", request, n=request.max_tokens, prompt_tokens=request.prompt_tokens)
        self.pump()
        return None

    def refuse(self, request: Request, reason: str) -> None:
        """Count a request that is not served."""
        self.refused[reason] = self.refused.get(reason, 0) + 1
        self._record(time.monotonic(), "reject", request, reason=reason)

    def pump(self) -> None:
        """Admit what fits, and begin it."""
        if self._pumping or not self._waiting:
            return
        self._pumping = True
        try:
            while self._waiting:
                self.charge()
                now_s = time.monotonic()
                admitted = self.scheduler.admit(now_s, self._fits)
                for request in admitted:
                    self._begin(request, now_s)
                if not admitted:
                    return
        finally:
            self._pumping = False

    def move(self, queued: Queued) -> Backend | None:
        """Another backend that is up, for a running request whose own could not take it; its window may overflow."""
        others = [one for one in self.backends if one.up and one is not queued.backend]
        if not others or queued.backend is None:
            return None
        backend = min(others, key=lambda one: one.window.requests)
        queued.backend.window.release(queued.size)
        backend.window.take(queued.size)
        queued.backend = backend
        return backend

    def first_token(self, queued: Queued) -> None:
        """The first bytes of a running request's answer are here."""
        now_s = time.monotonic()
        self.ttft.add(now_s - queued.arrived_s)
        if queued.backend is not None:
            queued.backend.window.first_token(now_s - queued.admitted_s)

    def token(self, queued: Queued, n: int) -> None:
        """A running request generated n output tokens, as far as can be seen.

        They are charged before anything is decided by the counters, and at the latest with the next sync.
        """
        if not queued.uncharged:
            self._fresh.append(queued)
        queued.uncharged += n

    def charge(self) -> None:
        """Charge every token that was seen."""
        if self._fresh:
            fresh, self._fresh = self._fresh, []
            now_s = time.monotonic()
            for queued in fresh:
                if queued.uncharged:
                    self._charge(queued, now_s)

    def _charge(self, queued: Queued, now_s: float) -> None:
        n, queued.uncharged = queued.uncharged, 0
        request = queued.request
        self.scheduler.tokens(request.id, n, now_s)
        queued.tokens += n
        queued.account.output_tokens += n
        self._ledger.served(queued)
        queued.unlogged += n
        if queued.unlogged >= self._journal.every:
            self._log_tokens(queued, now_s, held=min(HELD_BACK, self._journal.every - 1))

    def ended(self, queued: Queued, usage: Usage | None) -> None:
        """A running request got its whole answer; `usage` is what the backend counted."""
        now_s = time.monotonic()
        if queued.uncharged:
            self._charge(queued, now_s)
        self._settle(queued, usage, now_s)
        self.scheduler.finish(queued.request.id, now_s)
        self._leave(queued, now_s, "finish", usage)

    def give_up(self, queued: Queued, reason: str, usage: Usage | None = None) -> None:
        """A request ends without its whole answer: its client left, its backend broke, or it waited too long."""
        now_s = time.monotonic()
        if queued.backend is not None:
            if queued.uncharged:
                self._charge(queued, now_s)
            self._settle(queued, usage, now_s, estimated=False)
        self.scheduler.cancel(queued.request.id, now_s)
        self._leave(queued, now_s, "cancel", usage, reason=reason)

    def best_up(self) -> Backend | None:
        """The backend that is up and runs least."""
        return min((one for one in self.backends if one.up), key=lambda one: one.window.requests, default=None)

    def expire(self) -> None:
        """Take requests off the queue that have waited too long."""
        oldest_s = time.monotonic() - self._limits.timeout_s
        expired = []
        for job in self._waiting.values():
            if job.queued.arrived_s > oldest_s:
                break
            expired.append(job)
        self._drop(expired, "timeout")

    def clear(self) -> None:
        """Take every waiting request off the queue: the gateway stops."""
        self._drop(list(self._waiting.values()), "shutdown")

    def _drop(self, jobs: list[Job], reason: str) -> None:
        for job in jobs:
            self.refused[reason] = self.refused.get(reason, 0) + 1
            self.give_up(job.queued, reason)
            job.timed_out()

    def _refusal(self, account: Account, request: Request, now_s: float) -> Refusal | None:
        limits = account.cached_limits
        most = self._limits.per_tenant if limits.max_queue is None else limits.max_queue
        if account.queued >= most:
            return Refusal(429, "queue", f"{most} requests of this tenant wait already", account.retry_after_s())
        if len(self._waiting) >= self._limits.total:
            return Refusal(429, "queue_total", "the gateway's queue is full", account.retry_after_s())
        wait_s = account.over_rpm_s(now_s)
        if wait_s > 0:
            return Refusal(429, "rpm", f"over {limits.rpm} requests a minute", max(1, round(wait_s + 0.5)))
        if not any(one.window.could_fit(_size(request)) for one in self.backends):
            return Refusal(413, "too_large", "the request needs more tokens than any backend's window holds")
        return None

    def _fits(self, request: Request) -> bool:
        """Reserve room at the backend that runs least; the policy asks right before it charges."""
        size = _size(request)
        best: Backend | None = None
        for one in self.backends:
            if one.up and one.window.fits(size) and (best is None or one.window.requests < best.window.requests):
                best = one
        if best is None:
            return False
        best.window.take(size)
        self._reserved[request.id] = best
        self._ledger.admitting(request.tenant)
        return True

    def _begin(self, request: Request, now_s: float) -> None:
        job = self._waiting.pop(request.id)
        queued = job.queued
        queued.backend = backend = self._reserved.pop(request.id)
        queued.admitted_s = now_s
        account = queued.account
        account.queued -= 1
        account.running += 1
        account.prompt_tokens += request.prompt_tokens
        account.dispatched(now_s)
        self.waited.add(now_s - queued.arrived_s)
        self._ledger.served(queued)
        self._record(now_s, "admit", request, prompt_tokens=request.prompt_tokens)
        job.begin(backend)

    def _settle(self, queued: Queued, usage: Usage | None, now_s: float, *, estimated: bool = True) -> None:
        """Put estimates right where the truth is known."""
        account = queued.account
        if usage is None:
            account.estimated += estimated
            return
        self._estimator.learn(queued.units, queued.model, usage.prompt_tokens)
        self.scheduler.settle(queued.request.id, usage, now_s)
        account.prompt_tokens += usage.prompt_tokens - queued.request.prompt_tokens
        account.output_tokens += usage.output_tokens - queued.tokens
        queued.unlogged = max(0, queued.unlogged + usage.output_tokens - queued.tokens)

    def _leave(self, queued: Queued, now_s: float, event: str, usage: Usage | None, *, reason: str = "") -> None:
        request, account, backend = queued.request, queued.account, queued.backend
        del self._jobs[request.id]
        if self._waiting.pop(request.id, None) is not None:
            account.queued -= 1
        elif backend is not None:
            account.running -= 1
            backend.window.release(_size(request))
            if queued.unlogged:
                self._log_tokens(queued, now_s, held=0)
        account.last_s = now_s
        self._ledger.ended(queued)
        self._record(now_s, event, request, prompt_tokens=usage.prompt_tokens if usage else 0, reason=reason)
        self.pump()

    def _log_tokens(self, queued: Queued, now_s: float, *, held: int) -> None:
        """Log what is not logged, but for `held` tokens: the last events of a stream are none, as usage will say."""
        n, queued.unlogged = queued.unlogged - held, held
        self._record(now_s, "token", queued.request, n=n)

    def _record(
        self, now_s: float, event: str, request: Request, *, n: int = 0, prompt_tokens: int = 0, reason: str = ""
    ) -> None:
        if isinstance(self._journal, NoJournal):
            return
        # a decision and the charges before it read the clock apart; the log is in order of time all the same
        self._logged_s = max(self._logged_s, now_s)
        t_s = round(self._logged_s - self._start_s, 6)
        tenant = request.tenant if event in ("arrive", "reject") else ""
        self._journal.record(
            Event(t_s=t_s, event=event, id=request.id, tenant=tenant, n=n, prompt_tokens=prompt_tokens, reason=reason)
        )


def _size(request: Request) -> int:
    return request.prompt_tokens + request.max_tokens
