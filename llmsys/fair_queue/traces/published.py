"""Published traces and logs as trace records: Azure, BurstGPT, Mooncake, the VTC artifact's runs, batches, ShareGPT.

Of these only the VTC runs and batches name a tenant; for the others it comes from `tenants.py`, on request.
BurstGPT and ShareGPT are read by their published schemas; no original row of theirs has been seen here.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path

from llmsys.artifacts import TraceRecord, read_requests
from llmsys.errors import BadInput
from llmsys.fair_queue.traces.rows import Row, csv_rows, json_rows, jsonl_rows

__all__ = ["FORMATS", "Imported", "read_published"]

BYTES_PER_TOKEN = 4
TICKS_PER_S = 10**7
CountTokens = Callable[[str], int]


@dataclass(slots=True, frozen=True)
class Imported:
    """A record as its source has it; `tenant` is None where the source names nobody. `row` holds all its columns."""

    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    row: Row
    id: str | None = None
    tenant: str | None = None
    group: str | None = None
    adapter: str | None = None
    prefix: tuple[int, ...] = ()

    def record(self, number: int, tenant: str) -> TraceRecord:
        """The record for a trace; `number` names it where its source does not."""
        return TraceRecord(
            id=self.id or f"{number:07d}",
            tenant=tenant,
            arrival_s=self.arrival_s,
            prompt_tokens=self.prompt_tokens,
            output_tokens=self.output_tokens,
            adapter=self.adapter,
            group=self.group,
            prefix=self.prefix,
        )


def read_published(
    form: str,
    source: str | Path,
    *,
    start: str | None = None,
    failed: str = "drop",
    count_tokens: CountTokens | None = None,
) -> Iterator[Imported]:
    """Yield what a file of format `form`, one of FORMATS, holds, in its order.

    `start` is the Azure timestamp that becomes 0 s (default: the first row's). `failed` drops or keeps BurstGPT rows
    without a response. `count_tokens` counts ShareGPT's texts; without it 4 bytes are a token.
    """
    if form == "azure":
        return _azure(source, start)
    if form == "burstgpt":
        return _burstgpt(source, keep_failed=failed == "keep")
    if form == "sharegpt":
        return _sharegpt(source, count_tokens or _estimate)
    return {"mooncake": _mooncake, "vtc-log": _vtc_log, "openai-batch": _openai_batch}[form](source)


FORMATS = ("azure", "burstgpt", "mooncake", "vtc-log", "openai-batch", "sharegpt")


def _ticks(text: str, where: str) -> int:
    """An Azure timestamp in steps of 100 ns since 1970: whole numbers, because a float could not hold both ends.

    >>> _ticks("1970-01-01 00:00:01.2500001", ""), _ticks("1970-01-01 00:00:01.25+00:00", "")
    (12500001, 12500000)
    """
    whole, _, fraction = text.strip().removesuffix("+00:00").removesuffix("Z").partition(".")
    wrong = BadInput(where, f"TIMESTAMP is {text!r}", "a time like 2023-11-16 18:17:03.9799600")
    if fraction and not fraction.isdigit():
        raise wrong
    try:
        seconds = int(datetime.fromisoformat(whole + "+00:00").timestamp())
    except ValueError as error:
        raise wrong from error
    return seconds * TICKS_PER_S + int(fraction[:7].ljust(7, "0"))


def _azure(source: str | Path, start: str | None) -> Iterator[Imported]:
    zero = None if start is None else _ticks(start, "--start")
    for row in csv_rows(source):
        ticks = _ticks(row.text("TIMESTAMP"), row.where)
        zero = ticks if zero is None else zero
        if ticks < zero:
            raise BadInput(row.where, f"TIMESTAMP {row.text('TIMESTAMP')} lies before the start", "times in order")
        arrival_s = (ticks - zero) / TICKS_PER_S
        yield Imported(arrival_s, row.count("ContextTokens"), row.count("GeneratedTokens"), row)


def _burstgpt(source: str | Path, *, keep_failed: bool) -> Iterator[Imported]:
    for row in csv_rows(source):
        output = row.count("Response tokens")
        if output or keep_failed:
            session = row.values.get("Session ID")
            yield Imported(
                row.number("Timestamp"),
                row.count("Request tokens"),
                output,
                row,
                group=str(session) if session else None,
                adapter=row.text("Model"),
            )


def _mooncake(source: str | Path) -> Iterator[Imported]:
    for row in jsonl_rows(source):
        blocks = row.values.get("hash_ids", [])
        if not isinstance(blocks, list) or not all(isinstance(block, int) for block in blocks):
            raise BadInput(row.where, "hash_ids holds something else than numbers", "a list of block ids")
        arrival_s = row.number("timestamp") / 1000.0
        yield Imported(arrival_s, row.count("input_length"), row.count("output_length"), row, prefix=tuple(blocks))


def _vtc_log(source: str | Path) -> Iterator[Imported]:
    """Measured runs: the first line describes the run, then one request per line with its arrival and lengths."""
    for row in jsonl_rows(source):
        if "run" not in row.values:
            yield Imported(
                row.number("arrival_s"),
                row.count("prompt_tokens"),
                row.count("output_tokens"),
                row,
                id=row.text("id"),
                tenant=row.text("tenant"),
            )


def _openai_batch(source: str | Path) -> Iterator[Imported]:
    for request in read_requests(source):
        body = request.body
        texts = [message.text for message in body.messages or ()]
        if isinstance(body.prompt, str):
            texts.append(body.prompt)
        counted = request.prompt_tokens
        yield Imported(
            request.arrival_s or 0.0,
            sum(map(_estimate, texts)) if counted is None else counted,
            body.token_limit or 0,
            Row(request.custom_id, {"model": body.model, "user": body.user or "", "url": request.url}),
            id=request.custom_id,
            tenant=request.tenant_name,
            adapter=body.model,
        )


def _sharegpt(source: str | Path, count_tokens: CountTokens) -> Iterator[Imported]:
    """One request per answer; its prompt is the conversation before it. There are no times: all arrive at 0 s."""
    for row in json_rows(source):
        turns = row.values.get("conversations")
        if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
            raise BadInput(row.where, "no list of conversations", 'turns like {"from":"human","value":"…"}')
        lengths = [count_tokens(str(turn.get("value", ""))) for turn in turns]
        for index, (asked, answered) in enumerate(pairwise(turns)):
            if asked.get("from") in ("human", "user") and answered.get("from") in ("gpt", "assistant", "chatgpt"):
                yield Imported(0.0, sum(lengths[: index + 1]), lengths[index + 1], row, group=row.text("id"))


def _estimate(text: str) -> int:
    return len(text.encode()) // BYTES_PER_TOKEN
