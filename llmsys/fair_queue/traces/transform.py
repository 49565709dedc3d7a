"""Traces from traces: merged on one clock, sped up, summed up, and turned into requests with real prompts.

Knows records, not files' formats.
"""

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import msgspec

from llmsys.artifacts import BatchBody, BatchRequest, ChatMessage, TraceRecord

__all__ = ["TenantSummary", "TraceSummary", "mix", "requests_from_trace", "scale", "summarize"]

CHAT_URL = "/v1/chat/completions"


def mix(traces: Sequence[Iterable[TraceRecord]]) -> Iterator[TraceRecord]:
    """Merge traces by arrival; an id that an earlier trace has had gets `@` and its trace's number from 2."""
    seen: dict[str, int] = {}

    def numbered(index: int, trace: Iterable[TraceRecord]) -> Iterator[tuple[float, int, TraceRecord]]:
        for record in trace:
            yield record.arrival_s, index, record

    streams = [numbered(index, trace) for index, trace in enumerate(traces)]
    for _, index, record in heapq.merge(*streams, key=lambda item: item[:2]):
        taken = seen.setdefault(record.id, index) != index
        yield msgspec.structs.replace(record, id=f"{record.id}@{index + 1}") if taken else record


def scale(trace: Iterable[TraceRecord], *, rate: float) -> Iterator[TraceRecord]:
    """Speed a trace up: everything arrives `rate` times as fast."""
    for record in trace:
        yield msgspec.structs.replace(record, arrival_s=record.arrival_s / rate)


@dataclass(slots=True)
class TenantSummary:
    """Totals of one tenant."""

    requests: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0


@dataclass(slots=True)
class TraceSummary:
    """Totals of a trace; `span_s` runs from the first arrival to the last."""

    requests: int = 0
    span_s: float = 0.0
    prompt_tokens: int = 0
    output_tokens: int = 0
    longest_prompt_tokens: int = 0
    longest_output_tokens: int = 0
    shared_prefix_blocks: int = 0
    tenants: dict[str, TenantSummary] = field(default_factory=dict)


def summarize(trace: Iterable[TraceRecord]) -> TraceSummary:
    """Count what is in a trace; a block of a prefix is shared when an earlier request had it."""
    summary, blocks = TraceSummary(), Counter[int]()
    first_s: float | None = None
    for record in trace:
        first_s = record.arrival_s if first_s is None else first_s
        tenant = summary.tenants.setdefault(record.tenant, TenantSummary())
        for total in (summary, tenant):
            total.requests += 1
            total.prompt_tokens += record.prompt_tokens
            total.output_tokens += record.output_tokens
        summary.span_s = record.arrival_s - first_s
        summary.longest_prompt_tokens = max(summary.longest_prompt_tokens, record.prompt_tokens)
        summary.longest_output_tokens = max(summary.longest_output_tokens, record.output_tokens)
        summary.shared_prefix_blocks += sum(block in blocks for block in record.prefix)
        blocks.update(record.prefix)
    return summary


def requests_from_trace(
    trace: Iterable[TraceRecord], prompts: Sequence[str], models: Sequence[str], *, max_tokens: int | None = None
) -> Iterator[BatchRequest]:
    """Yield one chat request per record: neighbours share a prompt, so that it goes to every model in turn.

    Record k asks model k mod M with prompt k div M, round after round; tenant and arrival are the record's, and so is
    the length of the answer, at least 1 and at most `max_tokens`. Raises ValueError without prompts or models.
    """
    if not prompts or not models:
        raise ValueError(f"{len(prompts)} prompts and {len(models)} models; expected at least one of each")
    for number, record in enumerate(trace):
        length = record.output_tokens if max_tokens is None else min(record.output_tokens, max_tokens)
        question = ChatMessage("user", prompts[number // len(models) % len(prompts)])
        body = BatchBody(models[number % len(models)], messages=(question,), max_tokens=max(length, 1), temperature=0.0)
        yield BatchRequest(record.id, "POST", CHAT_URL, body, tenant=record.tenant, arrival_s=record.arrival_s)
