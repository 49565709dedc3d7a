"""What each policy would make of recorded or assumed turns: their times by the closed forms of `bounds.py`.

A recorded trace is the events of a run (`run --events`) under the policy partial: there a unit's release is known to
lie at or before its start. An assumed one has a line per call, decoded at a rate that is given:
{"call": "a", "units": [{"tokens": 12, "work_s": 0.3}, ...], "rest_tokens": 5}. Runs nothing.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate

import msgspec

from llmsys.artifacts import read_records
from llmsys.errors import BadInput, UsageFault
from llmsys.tool_serve.bounds import CallShape, turn_bound
from llmsys.tool_serve.records import CallEvent

__all__ = ["POLICIES", "ReplayedTurn", "TraceTurn", "mean_saving", "policies_of", "rates_of", "read_trace", "replay"]

POLICIES = ("blocking", "seal", "partial")


class _Piece(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A unit: tokens up to its end from the end of the one before, and the work it makes."""

    tokens: float
    work_s: float


class _Line(CallEvent, frozen=True, kw_only=True):
    """An event of a run, or an assumed call."""

    t_s: float = 0.0
    event: str = ""
    request: str = ""
    units: tuple[_Piece, ...] | None = None
    rest_tokens: float = 0.0


@dataclass(frozen=True, slots=True)
class TraceTurn:
    """One turn: who asked, its number, its calls, seconds from its first token to its last; rate: tokens a second."""

    request: str
    turn: int
    calls: tuple[CallShape, ...]
    decode_s: float
    rate: float | None = None


@dataclass(frozen=True, slots=True)
class ReplayedTurn:
    """A turn in seconds under each policy, and what share of blocking the others save; rate None: as recorded."""

    request: str
    turn: int
    calls: int
    rate: float | None
    decode_s: float
    work_s: float
    blocking_s: float
    seal_s: float
    partial_s: float
    seal_saves: float
    partial_saves: float

    def record(self, policies: Sequence[str] = POLICIES) -> dict[str, str | int | float | None]:
        """One line for stdout, of some policies alone."""
        left_out = {f"{one}_{what}" for one in POLICIES if one not in policies for what in ("s", "saves")}
        return {name: value for name, value in asdict(self).items() if name not in left_out}


def rates_of(text: str) -> tuple[float, ...]:
    """Rates above 0, comma-separated, as --rate takes them. Raises UsageFault.

    >>> rates_of("20,40")
    (20.0, 40.0)
    """
    try:
        rates = tuple(float(one) for one in text.split(","))
    except ValueError as error:
        raise UsageFault(f"--rate {text!r}; expected numbers, comma-separated") from error
    if not all(0 < one < float("inf") for one in rates):
        raise UsageFault(f"--rate {text!r}; expected numbers above 0")
    return rates


def policies_of(text: str) -> tuple[str, ...]:
    """Names of policies, comma-separated. Raises UsageFault."""
    names = tuple(text.split(","))
    unknown = [one for one in names if one not in POLICIES]
    if unknown:
        raise UsageFault(f"--policy {unknown[0]!r}; expected some of {', '.join(POLICIES)}")
    return names


def read_trace(
    source: str, rates: Sequence[float], *, on_error: str, on_skip: Callable[[BadInput], None]
) -> Iterator[TraceTurn]:
    """The turns of a trace; an assumed call is one turn for each rate (tokens a second). Raises BadInput."""
    events: list[CallEvent] = []
    for line in read_records(source, _Line, on_error=on_error, on_skip=on_skip, check=_fault):
        if line.units is None:
            events.append(line)
        else:
            yield from (_assumed(line, line.units, rate) for rate in rates)
    yield from _recorded(events)


def replay(turns: Iterable[TraceTurn], *, concurrency: int) -> Iterator[ReplayedTurn]:
    """Each turn under each policy; concurrency: calls that may work at once."""
    for one in turns:
        works = [call.work_s for call in one.calls]
        blocking = one.decode_s + sum(works)
        sealed = max([one.decode_s, *(call.sealed_s + call.work_s for call in one.calls)])
        seal = max(sealed, sum(works) / concurrency)
        partial = turn_bound(one.calls, decode_s=one.decode_s, concurrency=concurrency)
        yield ReplayedTurn(
            one.request, one.turn, len(one.calls), one.rate, one.decode_s, sum(works),
            blocking, seal, partial, _share(seal, blocking), _share(partial, blocking),
        )  # fmt: skip


def mean_saving(turns: Sequence[ReplayedTurn]) -> dict[str, float]:
    """Share of all turns' blocking time that seal and partial save together."""
    blocking = sum(one.blocking_s for one in turns)
    return {
        "seal": _share(sum(one.seal_s for one in turns), blocking),
        "partial": _share(sum(one.partial_s for one in turns), blocking),
    }


def _share(seconds: float, blocking: float) -> float:
    return 1 - seconds / blocking if blocking else 0.0


def _fault(line: _Line) -> tuple[str, str] | None:
    if line.units is None:
        what = "neither an event of a run nor a call with units"
        return None if line.event and line.request else (what, '"event" and "request", or "units"')
    numbers = [number for one in line.units for number in (one.tokens, one.work_s)]
    if not line.units or min([line.rest_tokens, *numbers]) < 0:
        return "no units, or a number below 0", "units of tokens and work_s of 0 or more"
    return None


def _assumed(line: _Line, units: Sequence[_Piece], rate: float) -> TraceTurn:
    releases = tuple(tokens / rate for tokens in accumulate(one.tokens for one in units))
    shape = CallShape(releases[-1], line.rest_tokens / rate, releases, tuple(one.work_s for one in units))
    return TraceTurn(line.call or line.request, 0, (shape,), shape.sealed_s + shape.rest_s, rate)


def _recorded(events: Sequence[CallEvent]) -> Iterator[TraceTurn]:
    """The turns of a run, by their decoding; calls belong to the turn in which they were opened."""
    for turn in (one for one in events if one.event == "decoding"):
        begun = [one for one in events if one.request == turn.request and one.event == "call_open"]
        ids = [one.call for one in begun if turn.start_s <= one.t_s <= turn.end_s]
        window = [one for one in events if one.request == turn.request and one.t_s >= turn.start_s]
        shapes = tuple(_shape([one for one in window if one.call == call], turn) for call in ids)
        yield TraceTurn(turn.request, turn.unit, shapes, turn.end_s - turn.start_s)


def _shape(events: Sequence[CallEvent], turn: CallEvent) -> CallShape:
    """A call by its events up to its result: times from the turn's start."""
    mine: list[CallEvent] = []
    for one in events:
        mine.append(one)
        if one.event == "result":
            break
    sealed_s = next((one.t_s for one in mine if one.event == "sealed"), turn.end_s) - turn.start_s
    works = sorted((one for one in mine if one.start_s >= 0.0), key=lambda one: one.start_s)
    releases = tuple(max(0.0, min(one.start_s - turn.start_s, sealed_s)) for one in works)
    return CallShape(max(sealed_s, 0.0), 0.0, releases, tuple(one.end_s - one.start_s for one in works))
