"""Workload traces: one JSON line per request, with its tenant, its arrival and its token counts.

Knows nothing of text or of scheduling, and does not check that ids differ.
"""

import heapq
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import msgspec

from llmsys.artifacts.jsonl import read_records
from llmsys.errors import BadInput

__all__ = ["Name", "Seconds", "Tokens", "TraceRecord", "read_trace"]

Name = Annotated[str, msgspec.Meta(min_length=1)]
Seconds = Annotated[float, msgspec.Meta(ge=0.0)]
Tokens = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]


class TraceRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """One request of a trace; `arrival_s` counts from the start of the trace.

    `group` names the agent or conversation it belongs to; `prefix` holds ids of the blocks its prompt starts with,
    equal ids for equal content (as Mooncake's `hash_ids`); a higher `priority` is more urgent; `ttft_slo_s` is how long
    its first token may take.
    """

    id: Name
    tenant: Name
    arrival_s: Seconds
    prompt_tokens: Tokens
    output_tokens: Tokens
    adapter: Name | None = None
    group: str | None = None
    prefix: tuple[int, ...] = ()
    priority: int = 0
    ttft_slo_s: Seconds | None = None


def read_trace(
    source: str | Path,
    *,
    on_error: str = "fail",
    on_skip: Callable[[BadInput], None] | None = None,
    reorder_s: float = 0.0,
) -> Iterator[TraceRecord]:
    """Yield the records of a trace in order of arrival; equal arrivals keep the order of their lines.

    Lines may come up to `reorder_s` seconds late (at 0 they must be in order); later ones do not fit. Raises as
    `read_records` does.
    """
    if not reorder_s >= 0.0:
        raise ValueError(f"reorder_s is {reorder_s}; expected seconds >= 0")
    newest = 0.0

    def late(record: TraceRecord) -> tuple[str, str] | None:
        nonlocal newest
        if record.arrival_s < newest - reorder_s:
            wrong = f"arrival_s {record.arrival_s} after a record that arrived at {newest}"
            return wrong, "records in order of arrival" + (f", at most {reorder_s} s late" if reorder_s else "")
        newest = max(newest, record.arrival_s)
        return None

    records = read_records(source, TraceRecord, on_error=on_error, on_skip=on_skip, check=late)
    return _reordered(records, reorder_s) if reorder_s else records


def _reordered(records: Iterator[TraceRecord], reorder_s: float) -> Iterator[TraceRecord]:
    """Hold records back until none that is still allowed can precede them."""
    held: list[tuple[float, int, TraceRecord]] = []
    newest = 0.0
    for number, record in enumerate(records):
        newest = max(newest, record.arrival_s)
        heapq.heappush(held, (record.arrival_s, number, record))
        while held[0][0] < newest - reorder_s:
            yield heapq.heappop(held)[2]
    while held:
        yield heapq.heappop(held)[2]
