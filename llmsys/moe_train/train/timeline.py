"""The events of a run as spans for Perfetto: steps, changes of members, checkpoints, and what happened in between."""

from collections.abc import Iterable, Iterator

from llmsys.artifacts import Span
from llmsys.moe_train.train.supervisor import Event

__all__ = ["run_spans"]

PARTS = ("detect_s", "interrupt_s", "plan_s", "group_s", "transfer_s")
INSTANTS = ("fault", "detect", "join", "fallback", "rebalance", "wait")


def run_spans(events: Iterable[Event]) -> Iterator[Span]:
    """One row of steps, one of reconfigurations and one of their parts, one of checkpoints and one of incidents."""
    last_s = 0.0
    for event in events:
        name, end_s = str(event["event"]), _number(event["t_s"])
        if name == "step":
            yield Span(f"step {event['step']}", "steps", last_s, end_s - last_s, _plain(event))
            last_s = end_s
        elif name == "reconfigure":
            total_s = min(_number(event["total_s"]), end_s)
            yield Span(f"epoch {event['epoch']}", "reconfigure", end_s - total_s, total_s, _plain(event))
            place_s = end_s - total_s
            for part in PARTS:
                length_s = min(_number(event[part]), end_s - place_s)
                yield Span(part.removesuffix("_s"), "parts", place_s, length_s)
                place_s += length_s
            last_s = end_s
        elif name == "checkpoint" and event["seconds"] is not None:
            length_s = min(_number(event["seconds"]), end_s)
            yield Span(f"step {event['step']}", "checkpoints", end_s - length_s, length_s, _plain(event))
        elif name in INSTANTS:
            yield Span(name, "incidents", end_s, 0.0, _plain(event))


def _number(value: object) -> float:
    assert isinstance(value, int | float)
    return float(value)


def _plain(event: Event) -> dict[str, str | int | float | bool | None]:
    return {key: value for key, value in event.items() if value is None or isinstance(value, str | int | float)}
