"""Timelines as Chrome trace JSON, which Perfetto and chrome://tracing open: one row per track, one bar per span.

Knows nothing of what runs. Format: "Trace Event Format", complete events (ph X) and thread names (ph M).
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llmsys.artifacts.compressed import write_compressed
from llmsys.artifacts.jsonl import encode

__all__ = ["Span", "write_chrome_trace"]

MICROSECONDS = 1e6
PROCESS = 1


@dataclass(frozen=True, slots=True)
class Span:
    """Something that took `duration_s` seconds from `start_s` on, in the row `track`; a click shows `args`."""

    name: str
    track: str
    start_s: float
    duration_s: float
    args: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.start_s) and 0.0 <= self.duration_s < math.inf):
            given = f"span {self.name!r} from {self.start_s} s for {self.duration_s} s"
            raise ValueError(f"{given}; expected finite times and a duration >= 0")


def write_chrome_trace(path: str | Path, spans: Iterable[Span]) -> None:
    """Write spans as they come; rows stand in the order of their first span. Viewers open `.gz` as it is."""
    with write_compressed(Path(path)) as stream:
        stream.write(b'{"displayTimeUnit":"ms","traceEvents":[\n')
        for number, event in enumerate(_events(spans)):
            stream.write((b"," if number else b"") + encode(event))
        stream.write(b"]}\n")


def _events(spans: Iterable[Span]) -> Iterator[dict[str, object]]:
    rows: dict[str, int] = {}
    for span in spans:
        if span.track not in rows:
            row = rows[span.track] = len(rows) + 1
            yield _row_event("thread_name", row, {"name": span.track})
            yield _row_event("thread_sort_index", row, {"sort_index": row})
        yield {
            "ph": "X",
            "name": span.name,
            "pid": PROCESS,
            "tid": rows[span.track],
            "ts": span.start_s * MICROSECONDS,
            "dur": span.duration_s * MICROSECONDS,
            "args": dict(span.args),
        }


def _row_event(name: str, row: int, args: dict[str, object]) -> dict[str, object]:
    return {"ph": "M", "name": name, "pid": PROCESS, "tid": row, "args": args}
