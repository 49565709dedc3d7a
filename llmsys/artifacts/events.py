"""The event log that schedulers write and `fair-queue audit` reads: what happened to which request, when.

The first record is `meta`: the rules that the run followed. Fields that a kind does not use keep their defaults and are
not written. Knows nothing of fairness; kinds it does not know pass through.
"""

import math
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Annotated, BinaryIO, Protocol, Self

import msgspec

from llmsys.artifacts.compressed import write_compressed
from llmsys.artifacts.jsonl import encode, read_records
from llmsys.artifacts.trace import Name, Seconds, Tokens
from llmsys.errors import BadInput

__all__ = ["EVENT_KINDS", "Event", "EventLog", "TimedRecord", "read_events"]

EVENT_KINDS = ("meta", "arrive", "admit", "token", "finish", "cancel", "reject", "preempt")

Weight = Annotated[float, msgspec.Meta(gt=0.0)]
Price = Annotated[float, msgspec.Meta(ge=0.0)]


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """One event at `t_s` seconds of its log's clock.

    Of a request: `n` output tokens (in `token`: new ones; in `arrive`: the most it may produce), `prompt_tokens`, of
    which `cached_tokens` were found in a cache; `reason` of a cancel, reject or preempt. Of `meta`: the policy, how
    memory is reserved (sum, peak or paged), `memory` in tokens, the tenants' `weights`, the prices `prompt_weight` and
    `output_weight` of a token (VTC's w_p and w_q), which `clock` (virtual or wall), `log_every`, how many steps one
    `token` record may cover, `max_batch`, how many requests may run (0: no limit), and `admit_every`, how many decode
    steps lie between admissions.
    """

    t_s: Seconds
    event: Name
    id: str = ""
    tenant: str = ""
    n: Tokens = 0
    prompt_tokens: Tokens = 0
    cached_tokens: Tokens = 0
    adapter: str = ""
    reason: str = ""
    replica: Tokens = 0
    policy: str = ""
    reserve: str = ""
    memory: Annotated[int, msgspec.Meta(ge=0)] = 0
    weights: dict[str, Weight] = msgspec.field(default_factory=dict)
    prompt_weight: Price = 1.0
    output_weight: Price = 2.0
    clock: str = ""
    log_every: Annotated[int, msgspec.Meta(ge=1)] = 1
    max_batch: Annotated[int, msgspec.Meta(ge=0)] = 0
    admit_every: Annotated[int, msgspec.Meta(ge=1)] = 1


class TimedRecord(Protocol):
    """What a log takes: an `Event`, or a system's own Struct that says when and what."""

    @property
    def t_s(self) -> float: ...

    @property
    def event(self) -> str: ...


class EventLog:
    """Writes records to a JSON Lines file, compressed by suffix, that appears when the block ends without exception.

    With `live` the lines are appended to the file as they come, one write each and uncompressed: for servers, whose log
    must outlive them and be read while it grows.
    """

    def __init__(self, path: str | Path, *, live: bool = False) -> None:
        self._path = Path(path)
        if live and self._path.suffix in (".gz", ".zst"):
            raise ValueError(f"a live log cannot be compressed: {path}")
        self._live = live
        self._stack = ExitStack()
        self._stream: BinaryIO | None = None

    def __enter__(self) -> Self:
        if self._live:
            descriptor = os.open(self._path, os.O_CREAT | os.O_APPEND | os.O_WRONLY | os.O_CLOEXEC, 0o666)
            self._stream = self._stack.enter_context(os.fdopen(descriptor, "wb", buffering=0))
        else:
            self._stream = self._stack.enter_context(write_compressed(self._path))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream = None
        self._stack.__exit__(kind, error, trace)

    def write(self, event: TimedRecord) -> None:
        """Append one record. Raises ValueError for a time that is no finite number, or outside the `with` block."""
        if self._stream is None:
            raise ValueError(f"event log {self._path} is not open; use it in a with block")
        if not math.isfinite(event.t_s):
            raise ValueError(f"event {event.event!r} at t_s {event.t_s}; expected a finite time")
        self._stream.write(encode(event))


def read_events(
    source: str | Path, *, on_error: str = "fail", on_skip: Callable[[BadInput], None] | None = None
) -> Iterator[Event]:
    """Yield the events of a log, in order of time, `meta` first. Raises as `read_records` does."""
    previous: Event | None = None

    def out_of_place(event: Event) -> tuple[str, str] | None:
        nonlocal previous
        if previous is None and event.event != "meta":
            return f"the log starts with {event.event!r}", "a first record with event 'meta'"
        if previous is not None and event.t_s < previous.t_s:
            return f"t_s {event.t_s} after t_s {previous.t_s}", "events in order of time"
        previous = event
        return None

    return read_records(source, Event, on_error=on_error, on_skip=on_skip, check=out_of_place)
