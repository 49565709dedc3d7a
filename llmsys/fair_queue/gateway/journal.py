"""What happened to which request, in the format that `fair-queue audit` reads, while the gateway runs.

Lines are gathered and written together every sync; what a kill loses is at most that. Output tokens of one request are
gathered too, up to `every`, and the log's meta says so. A log that is there already is moved aside, because what ran in
it has ended without a record.
"""

import contextlib
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from llmsys.artifacts import Event, encode
from llmsys.errors import LlmsysError
from llmsys.fair_queue.policy import LinearCost

__all__ = ["Journal", "NoJournal", "log_policy", "meta_event"]

FLUSH_BYTES = 1 << 18


def log_policy(spec: str) -> str:
    """The policy's name in a log. Plain VTC becomes `vtc/settled`: its counters are put right when usage comes, so
    their order cannot be replayed, while every statement on service still holds."""
    name, colon, options = spec.partition(":")
    settled = name in ("vtc", "lcf", "edf", "slo") and "predict" not in options
    return f"{name}/settled{colon}{options}" if settled else spec


class NoJournal:
    """The journal of a gateway that writes none."""

    every = 1
    fault: str | None = None

    def record(self, event: Event) -> None:
        """Nothing is kept."""

    def flush(self) -> None:
        """Nothing is there."""


class Journal:
    """Appends events to a file. Raises LlmsysError if it cannot be opened; lines that a write fails on
    are dropped, and `fault` says why until a write succeeds."""

    def __init__(self, path: Path, *, every: int) -> None:
        self.every = every
        self.fault: str | None = None
        self._lines: list[bytes] = []
        self._size = 0
        self._path = path
        self._descriptor = -1

    def __enter__(self) -> Self:
        try:
            if self._path.exists() and self._path.stat().st_size:
                self._path.rename(_free_name(self._path))
            flags = os.O_CREAT | os.O_APPEND | os.O_WRONLY | os.O_CLOEXEC
            self._descriptor = os.open(self._path, flags, 0o666)
        except OSError as error:
            raise LlmsysError(f"{self._path}: {error.strerror}") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.flush()
        os.close(self._descriptor)

    def record(self, event: Event) -> None:
        """Keep one event until the next flush."""
        line = encode(event)
        self._lines.append(line)
        self._size += len(line)
        if self._size >= FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what was kept."""
        if not self._lines:
            return
        data = b"".join(self._lines)
        self._lines.clear()
        self._size = 0
        whole_bytes = os.fstat(self._descriptor).st_size
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
            self.fault = None
        except OSError as error:
            with contextlib.suppress(OSError):  # a device or a pipe has no length
                os.ftruncate(self._descriptor, whole_bytes)  # no line is left cut
            self.fault = f"{self._path}: {error.strerror}"


def meta_event(spec: str, weights: dict[str, float], *, every: int, t_s: float = 0.0) -> Event:
    """The first record: the rules of the run. Prices are those of the policy's linear cost."""
    cost = LinearCost()
    return Event(
        t_s=t_s,
        event="meta",
        policy=log_policy(spec),
        weights=weights,
        prompt_weight=_price(spec, "wp", cost.wp),
        output_weight=_price(spec, "wq", cost.wq),
        clock="wall",
        log_every=every,
    )


def _price(spec: str, key: str, default: float) -> float:
    for item in spec.partition(":")[2].split(","):
        name, _, value = item.partition("=")
        if name.strip() == key:
            return float(value)
    return default


def _free_name(path: Path) -> Path:
    number = 1
    while (name := path.with_name(f"{path.stem}.{number}{path.suffix}")).exists():
        number += 1
    return name
