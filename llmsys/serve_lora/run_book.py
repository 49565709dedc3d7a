"""The book of one run: what happened to each request and what it cost, as sums, events, spans and ledger entries.

Hears the engine's events and the rows of each step; knows nothing of results or of the command line.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from llmsys.artifacts import Event, EventLog, Span
from llmsys.engine import EngineEvent
from llmsys.serve_lora.batch_results import Usage
from llmsys.serve_lora.ledger import Ledger
from llmsys.serve_lora.plan_tap import PlanTap
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
    usage: Usage = Usage()
    output_tokens: int = 0


class RunBook:
    """Takes the engine's events in order and the steps as they end."""

    def __init__(self, ledger: Ledger, tap: PlanTap, *, events: EventLog | None = None) -> None:
        self.totals = Totals()
        self._ledger = ledger
        self._tap = tap
        self._events = events
        self._lives: dict[int, _Life] = {}
        self._steps: list[tuple[float, float, int, int]] = []

    def on_event(self, event: EngineEvent) -> None:
        """Note one event of the engine, and log it."""
        if self._events is not None:
            self._events.write(_logged(event))
        life = self._lives.get(event.request_id)
        sums = self.totals.of(event.tenant)
        if event.kind == "arrive":
            self._lives[event.request_id] = _Life(
                event.id, event.tenant, event.t_s, usage=Usage(event.prompt_tokens)
            )
            sums.requests += 1
            sums.prompt_tokens += event.prompt_tokens
        elif event.kind == "reject":
            sums.requests += life is None
            sums.failed += 1
        elif life is not None:
            self._follow(life, event)

    def _follow(self, life: _Life, event: EngineEvent) -> None:
        sums = self.totals.of(event.tenant)
        if event.kind == "admit" and life.admit_s is None:
            life.admit_s = event.t_s
            life.usage = Usage(life.usage.prompt_tokens, event.cached_tokens)
            sums.cached_tokens += event.cached_tokens
        elif event.kind == "token":
            sums.output_tokens += event.n
            life.output_tokens += event.n
            if life.first_s is None:
                life.first_s = event.t_s
                sums.ttft_s.append(event.t_s - life.arrive_s)
        elif event.kind in ("finish", "cancel"):
            life.finish_s = event.t_s
            sums.failed += event.reason == "error"

    def usage(self, request_id: int) -> Usage:
        """Prompt tokens of a request that has arrived."""
        return self._lives[request_id].usage

    def step_done(self, start_s: float, end_s: float, *, in_flight: bool) -> None:
        """Charge a step of the engine that took from `start_s` to `end_s` on the ledger's clock."""
        rows, sampled = self._tap.take()
        self._ledger.wait(start_s, in_flight=in_flight)
        if not rows:
            self._ledger.wait(end_s, in_flight=in_flight)
            return
        shares = self._ledger.charge(end_s, rows, output_tokens=sampled)
        for row, share in zip(rows, shares, strict=True):
            self.totals.of(row.tenant).device_s += share
        self._steps.append((start_s, end_s, len(rows), sum(row.tokens for row in rows)))

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


def _logged(event: EngineEvent) -> Event:
    return Event(
        t_s=event.t_s,
        event=event.kind,
        id=event.id,
        tenant=event.tenant,
        n=event.n,
        prompt_tokens=event.prompt_tokens,
        cached_tokens=event.cached_tokens,
    )
