"""An event log as columns of numbers: checked record by record, ready for one pass.

Knows which sequences of events make sense; knows no bound.
"""

import math
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from llmsys.artifacts import Event, decode_record, read_lines
from llmsys.errors import BadInput, UsageFault

__all__ = ["ADMIT", "ARRIVE", "LEAVE", "PREEMPT", "TOKEN", "Columns", "columns_of", "read_log"]

ARRIVE, ADMIT, TOKEN, LEAVE, PREEMPT = range(5)
_WAITING, _RUNNING, _GONE = range(3)
IGNORED = ("meta", "reject")


@dataclass(slots=True)
class Columns:
    """One row per event that moves a request: time, kind, tenant, request, output tokens.

    Per request: name, tenant, prompt tokens, of which cached, output tokens of the whole log, the most it might have
    made (`limit`), whether it finished, and times of arrival, first admission, first token and end (NaN where it did
    not come to that). `kind` LEAVE is a finish or a cancel.
    `warnings` are for people; `partial` says that tenants were left out.
    """

    meta: Event
    tenants: list[str]
    time: NDArray[np.float64]
    kind: NDArray[np.int8]
    tenant: NDArray[np.int32]
    request: NDArray[np.int32]
    tokens: NDArray[np.int32]
    request_tenant: NDArray[np.int32]
    prompt: NDArray[np.float64]
    cached: NDArray[np.float64]
    output: NDArray[np.float64]
    limit: NDArray[np.float64]
    stamps: NDArray[np.float64]
    requests: list[str]
    finished: NDArray[np.bool_]
    rejected: int
    warnings: list[str]
    partial: bool = False

    def only(self, chosen: NDArray[np.int64]) -> "Columns":
        """The same log without the events of tenants that are not in `chosen` (sorted indices)."""
        places = np.full(len(self.tenants), -1, np.int32)
        places[chosen] = np.arange(len(chosen), dtype=np.int32)
        kept = np.flatnonzero(places[self.request_tenant] >= 0)
        numbers = np.full(len(self.requests), -1, np.int32)
        numbers[kept] = np.arange(len(kept), dtype=np.int32)
        rows = places[self.tenant] >= 0
        left_out = f"pairs among the {len(chosen)} tenants with most service, of {len(self.tenants)}"
        return Columns(
            meta=self.meta,
            tenants=[self.tenants[index] for index in chosen],
            time=self.time[rows],
            kind=self.kind[rows],
            tenant=places[self.tenant[rows]],
            request=numbers[self.request[rows]],
            tokens=self.tokens[rows],
            request_tenant=places[self.request_tenant[kept]],
            prompt=self.prompt[kept],
            cached=self.cached[kept],
            output=self.output[kept],
            limit=self.limit[kept],
            stamps=self.stamps[kept],
            requests=[self.requests[index] for index in kept],
            finished=self.finished[kept],
            rejected=self.rejected,
            warnings=[*self.warnings, left_out],
            partial=True,
        )


@dataclass(slots=True)
class _Reading:
    """What is known while records come in."""

    tenants: dict[str, int] = field(default_factory=dict)
    requests: dict[str, int] = field(default_factory=dict)
    state: list[int] = field(default_factory=list)
    owner: list[int] = field(default_factory=list)
    prompt: list[int] = field(default_factory=list)
    cached: list[int] = field(default_factory=list)
    output: list[int] = field(default_factory=list)
    limit: list[int] = field(default_factory=list)
    stamps: list[list[float]] = field(default_factory=list)
    finished: list[bool] = field(default_factory=list)
    time: "array[float]" = field(default_factory=lambda: array("d"))
    kind: "array[int]" = field(default_factory=lambda: array("b"))
    tenant: "array[int]" = field(default_factory=lambda: array("i"))
    request: "array[int]" = field(default_factory=lambda: array("i"))
    tokens: "array[int]" = field(default_factory=lambda: array("i"))
    rejected: int = 0


def read_log(source: str | Path, replica: int | None = None) -> Columns:
    """The columns of a log file, `-` for stdin, of one of its replicas if there are several.

    Raises BadInput at FILE:LINE, UsageFault for several replicas and no choice; a cut last line becomes a warning.
    """
    decoder = msgspec.json.Decoder(Event)
    name = "<stdin>" if source == "-" else str(source)
    warnings: list[str] = []

    def events() -> Iterator[tuple[str, Event]]:
        fault: BadInput | None = None
        for number, line in read_lines(source):
            if fault is not None:
                raise fault
            if not line.strip():
                continue
            where = f"{name}:{number}"
            try:
                yield where, decode_record(line, decoder, where)
            except BadInput as error:
                fault = error
        if fault is not None:
            warnings.append(f"last record left out, it is cut off: {fault}")

    return _columns(events(), warnings, replica)


def columns_of(events: Iterable[Event], replica: int | None = None) -> Columns:
    """The columns of events in memory. Raises as `read_log`, BadInput at event N, counted from 1."""
    return _columns(((f"event {number}", event) for number, event in enumerate(events, 1)), [], replica)


def _columns(events: Iterator[tuple[str, Event]], warnings: list[str], replica: int | None) -> Columns:
    where, meta = next(events, ("the log", None))
    if meta is None or meta.event != "meta":
        found = "no record" if meta is None else f"a first record {meta.event!r}"
        raise BadInput(where, found, "a first record with event 'meta'")
    reading, last_s = _Reading(), meta.t_s
    for where, event in events:
        if event.t_s < last_s:
            raise BadInput(where, f"t_s {event.t_s} after t_s {last_s}", "events in order of time")
        last_s = event.t_s
        if replica is None and event.replica:
            raise UsageFault(
                f"{where}: the log holds several replicas, each with its queue; judge one with --replica N"
            )
        if replica is None or event.replica == replica:
            _take(reading, event, where)
    return _packed(reading, meta, warnings)


def _take(reading: _Reading, event: Event, where: str) -> None:
    kind = event.event
    if kind == "arrive":
        _arrive(reading, event, where)
    elif kind == "admit":
        _move(reading, event, where, ADMIT, (_WAITING,), _RUNNING)
    elif kind == "token":
        _move(reading, event, where, TOKEN, (_RUNNING,), _RUNNING)
    elif kind == "preempt":
        _move(reading, event, where, PREEMPT, (_RUNNING,), _WAITING)
    elif kind == "finish":
        _move(reading, event, where, LEAVE, (_RUNNING,), _GONE)
    elif kind == "cancel":
        _move(reading, event, where, LEAVE, (_WAITING, _RUNNING), _GONE)
    elif kind in IGNORED:
        reading.rejected += kind == "reject"


def _arrive(reading: _Reading, event: Event, where: str) -> None:
    if event.id in reading.requests:
        raise BadInput(where, f"a second arrive of {event.id!r}", "an id of its own for every request")
    if not event.tenant:
        raise BadInput(where, f"arrive of {event.id!r} without a tenant", "the tenant's name")
    tenant = reading.tenants.setdefault(event.tenant, len(reading.tenants))
    reading.requests[event.id] = len(reading.state)
    reading.state.append(_WAITING)
    reading.owner.append(tenant)
    reading.prompt.append(event.prompt_tokens)
    reading.cached.append(0)
    reading.output.append(0)
    reading.limit.append(event.n)
    reading.stamps.append([event.t_s, math.nan, math.nan, math.nan])
    reading.finished.append(False)
    _append(reading, event.t_s, ARRIVE, len(reading.state) - 1, 0)


def _move(reading: _Reading, event: Event, where: str, kind: int, allowed: tuple[int, ...], state: int) -> None:
    request = reading.requests.get(event.id)
    if request is None:
        if event.event == "cancel":  # of a request that was refused on arrival
            return
        raise BadInput(where, f"{event.event} of {event.id!r}, which did not arrive", "an arrive before it")
    if reading.state[request] not in allowed:
        now = ("waits", "runs", "has ended")[reading.state[request]]
        raise BadInput(where, f"{event.event} of {event.id!r}, which {now}", _order_hint(event.event))
    left_queue = kind == LEAVE and reading.state[request] == _WAITING
    reading.state[request] = state
    stamps = reading.stamps[request]
    if kind in (ADMIT, LEAVE) and event.prompt_tokens:  # a gateway knows the true count at the end
        reading.prompt[request] = event.prompt_tokens
    if kind == ADMIT and math.isnan(stamps[1]):
        reading.cached[request] = event.cached_tokens
        stamps[1] = event.t_s
    if kind == TOKEN:
        reading.output[request] += event.n
        stamps[2] = event.t_s if math.isnan(stamps[2]) else stamps[2]
    if kind == LEAVE:
        reading.finished[request] = event.event == "finish"
        stamps[3] = event.t_s
    # tokens = -1 marks a request that leaves the queue without having been admitted from it
    _append(reading, event.t_s, kind, request, -1 if left_queue else event.n)


def _order_hint(event: str) -> str:
    if event == "admit":
        return "one admit per arrive or preempt"
    return "an admit before it" if event != "cancel" else "no cancel after the end"


def _append(reading: _Reading, t_s: float, kind: int, request: int, tokens: int) -> None:
    reading.time.append(t_s)
    reading.kind.append(kind)
    reading.tenant.append(reading.owner[request])
    reading.request.append(request)
    reading.tokens.append(tokens)


def _packed(reading: _Reading, meta: Event, warnings: list[str]) -> Columns:
    return Columns(
        meta=meta,
        tenants=list(reading.tenants),
        time=np.array(reading.time, np.float64),
        kind=np.array(reading.kind, np.int8),
        tenant=np.array(reading.tenant, np.int32),
        request=np.array(reading.request, np.int32),
        tokens=np.array(reading.tokens, np.int32),
        request_tenant=np.array(reading.owner, np.int32),
        prompt=np.array(reading.prompt, np.float64),
        cached=np.array(reading.cached, np.float64),
        output=np.array(reading.output, np.float64),
        limit=np.array(reading.limit, np.float64),
        stamps=np.array(reading.stamps, np.float64).reshape(-1, 4),
        requests=list(reading.requests),
        finished=np.array(reading.finished, np.bool_),
        rejected=reading.rejected,
        warnings=warnings,
    )
