"""The event lines of tool calls: what happened to which call, when; and the same as rows of a timeline.

Knows no scheduler: it is told what happened.
"""

from collections.abc import Iterable, Iterator

import msgspec

from llmsys.artifacts import Span

__all__ = ["CALL_EVENTS", "CallEvent", "Decoding", "call_spans"]

CALL_EVENTS = (
    "decoding",
    "call_open",
    "feed_start",
    "value",
    "unit",
    "sealed",
    "invalid",
    "feed_end",
    "commit",
    "rollback",
    "cancel",
    "timeout",
    "held_loop",
    "result",
)


class CallEvent(msgspec.Struct, frozen=True, omit_defaults=True):
    """One event at `t_s` seconds of the runtime's clock, of the `call` of a `request`.

    Of work on a value or unit: its JSON `path`, the number of the `unit` from 0, and from `start_s` to `end_s`. Of
    decoding: a turn's times, its number in `unit`. Of a result: its `state` and size. `reason` says why a call was
    refused, cancelled or rolled back.
    """

    t_s: float
    event: str
    request: str
    call: str = ""
    tool: str = ""
    path: str = ""
    unit: int = -1
    start_s: float = -1.0
    end_s: float = -1.0
    state: str = ""
    output_bytes: int = -1
    reason: str = ""


class Decoding(msgspec.Struct, frozen=True):
    """The model was writing a turn of a request from `start_s` to `end_s`."""

    request: str
    turn: int
    start_s: float
    end_s: float

    def event(self) -> CallEvent:
        """The same among the events of calls."""
        return CallEvent(self.end_s, "decoding", self.request, unit=self.turn, start_s=self.start_s, end_s=self.end_s)


def call_spans(events: Iterable[CallEvent], decodings: Iterable[Decoding]) -> Iterator[Span]:
    """One row per request for decoding, one per call for the work of its tool."""
    for one in sorted(decodings, key=lambda one: (one.start_s, one.request)):
        yield Span(f"turn {one.turn}", f"{one.request} decode", one.start_s, one.end_s - one.start_s)
    for event in events:
        if event.start_s >= 0.0:
            name = f"{event.event} {event.path}".strip()
            track = f"{event.request} {event.call} {event.tool}"
            yield Span(name, track, event.start_s, event.end_s - event.start_s, {"unit": event.unit})
