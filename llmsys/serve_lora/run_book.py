"""The book of one run: what happened to each request and what it cost, as sums, events, spans and ledger entries.

Hears the engine's events and the rows of each step; knows nothing of results or of the command line.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from llmsys.artifacts import Event, EventLog, Span
from llmsys.engine.outputs import EngineEvent
from llmsys.engine.sequence import Request
from llmsys.serve_lora.ledger import Ledger
from llmsys.serve_lora.prices import PriceList
from llmsys.serve_lora.step_cost import StepRow
from llmsys.serve_lora.tenant_totals import Totals

__all__ = ["RunBook"]


@dataclass(slots=True)
class _Life:
    """When one request arrived, was admitted, spoke first and ended; seconds on the engine's clock."""

    name: str
    tenant: str
    arrive_s: float
    admit_s: float | None = None
    first_s: float | None = None
    finish_s: float | None = None
    output_tokens: int = 0


class RunBook:
    """Takes the engine's events in order and the steps as they end.

    Times of steps are on the ledger's clock, which must start with the engine's for the spans to line up.
    """

    def __init__(self, ledger: Ledger, *, events: EventLog | None = None) -> None:
        self.totals = Totals()
        self._ledger = ledger
        self._events = events
        self._asked: Request | None = None
        self._lives: dict[int, _Life] = {}
        self._open = 0
        self._steps: list[tuple[float, float, int, int]] = []

    def adding(self, request: Request, now_s: float) -> None:
        """Note what is about to be given to the engine."""
        self.gap_ends(now_s)
        self._asked = request

    def gap_ends(self, now_s: float) -> None:
        """Book the time since the last step: overhead if a request is open, else idle time."""
        self._ledger.wait(now_s, in_flight=self._open > 0)

    def on_event(self, event: EngineEvent) -> None:
        """Note one event of the engine, and log it."""
        if self._events is not None:
            self._events.write(self._logged(event))
        if event.kind == "arrive":
            self._open += 1
            self._lives[event.request_id] = _Life(event.id, event.tenant, event.t_s)
            sums = self.totals.of(event.tenant)
            sums.requests += 1
            sums.prompt_tokens += event.prompt_tokens
        elif event.request_id in self._lives:
            self._follow(self._lives[event.request_id], event)

    def refused(self, tenant: str) -> None:
        """Count a request that the engine never took."""
        sums = self.totals.of(tenant)
        sums.requests += 1
        sums.failed += 1

    def step_done(self, start_s: float, end_s: float, rows: list[StepRow], sampled: list[int]) -> None:
        """Charge a step from `start_s` (where the gap before it ended) to `end_s` to its rows."""
        if not rows:
            self.gap_ends(end_s)
            return
        shares = self._ledger.charge(end_s, rows, output_tokens=sampled)
        for row, share in zip(rows, shares, strict=True):
            self.totals.of(row.tenant).device_s += share
        self._steps.append((start_s, end_s, len(rows), sum(row.tokens for row in rows)))

    def summary(self, prices: PriceList) -> dict[str, object]:
        """The run as JSON values: where the time went, how fast tokens came, and a row per tenant."""
        windows = self._ledger.windows
        wall_s = math.fsum(window.wall_s for window in windows)
        tenants = self.totals.rows(prices)
        output_tokens = sum(life.output_tokens for life in self._lives.values())
        return {
            "requests": sum(int(row["requests"] or 0) for row in tenants),
            "failed": sum(int(row["failed"] or 0) for row in tenants),
            "output_tokens": output_tokens,
            "wall_s": wall_s,
            "output_tok_s": output_tokens / wall_s if wall_s > 0 else 0.0,
            "overhead_s": math.fsum(window.overhead_s for window in windows),
            "idle_s": math.fsum(window.idle_s for window in windows),
            "currency": prices.currency,
            "tenants": tenants,
        }

    def spans(self) -> Iterator[Span]:
        """The run as a timeline: the engine's steps, and each tenant's requests waiting and running."""
        for start_s, end_s, rows, tokens in self._steps:
            yield Span("step", "engine", start_s, end_s - start_s, {"rows": rows, "tokens": tokens})
        for life in self._lives.values():
            if life.admit_s is None:
                continue
            yield Span(f"{life.name} waits", life.tenant, life.arrive_s, life.admit_s - life.arrive_s, {})
            if life.finish_s is not None:
                facts = {"output_tokens": life.output_tokens}
                yield Span(life.name, life.tenant, life.admit_s, life.finish_s - life.admit_s, facts)

    def _follow(self, life: _Life, event: EngineEvent) -> None:
        sums = self.totals.of(life.tenant)
        if event.kind == "admit" and life.admit_s is None:
            life.admit_s = event.t_s
            sums.cached_tokens += event.cached_tokens
        elif event.kind == "token":
            sums.output_tokens += event.n
            life.output_tokens += event.n
            if life.first_s is None:
                life.first_s = event.t_s
                sums.ttft_s.append(event.t_s - life.arrive_s)
        elif event.kind in ("finish", "cancel"):
            self._open -= 1
            life.finish_s = event.t_s
            sums.failed += event.reason in ("error", "cancelled")

    def _logged(self, event: EngineEvent) -> Event:
        """The engine's event as a record; an arrival also says its adapter and the most it may produce."""
        record = Event(
            t_s=event.t_s,
            event=event.kind,
            id=event.id,
            tenant=event.tenant,
            n=event.n,
            prompt_tokens=event.prompt_tokens,
            cached_tokens=event.cached_tokens,
            reason=event.reason,
        )
        if event.kind != "arrive" or self._asked is None:
            return record
        limit = self._asked.sampling.max_tokens * self._asked.sampling.n
        return msgspec.structs.replace(record, n=limit, adapter=self._asked.adapter or "")
