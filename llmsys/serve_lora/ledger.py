"""The cost ledger: every device second goes to a request, to overhead, or to idle time, and the sum is exact.

An append-only file of JSON Lines: an opening record, then one record per window of at most a second, synced to disk.
A process that is killed loses that window and nothing before it. Knows nothing of prices (`cost_report` applies them).
"""

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import msgspec

from llmsys.serve_lora.prices import PriceList
from llmsys.serve_lora.step_cost import StepModel, StepRow, split_step

__all__ = ["VERSION", "Ledger", "Opening", "Part", "Window"]

VERSION = 1
WINDOW_S = 1.0


class Part(msgspec.Struct):
    """What one tenant used of one adapter ("" is the base) within a window; prompt tokens are those computed."""

    tenant: str
    adapter: str = ""
    device_s: float = 0.0
    kv_token_s: float = 0.0
    prompt_tokens: int = 0
    output_tokens: int = 0


class Opening(msgspec.Struct, frozen=True, tag_field="kind", tag="open"):
    """Who keeps the ledger: devices, bytes of one token's keys and values, prices, and the time of second 0."""

    version: int
    devices: int
    kv_token_bytes: int
    prices: PriceList
    unix_s: float


class Window(msgspec.Struct, frozen=True, tag_field="kind", tag="window"):
    """A stretch of wall time: Σ parts.device_s + overhead_s + idle_s = devices × wall_s."""

    start_s: float
    wall_s: float
    parts: list[Part]
    overhead_s: float
    idle_s: float


class Ledger:
    """Takes the run's time in marks that follow each other: charged to rows, to overhead or to idleness.

    `path` None keeps windows in memory only; `windows` has the last `keep` of them, all where `keep` is None.
    """

    def __init__(
        self,
        opening: Opening,
        *,
        model: StepModel,
        start_s: float,
        path: Path | None = None,
        keep: int | None = None,
    ) -> None:
        self.opening = opening
        self.windows: list[Window] = []
        self._keep = keep
        self._model = model
        self._stream = _open_to_append(path) if path is not None else None
        self._mark_s = self._start_s = start_s
        self._parts: dict[tuple[str, str], Part] = {}
        self._overhead_s = self._idle_s = 0.0
        self._append(opening)

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def charge(self, now_s: float, rows: Sequence[StepRow], *, output_tokens: Sequence[int]) -> list[float]:
        """Charge the time since the last mark to the rows of the step that took it; returns seconds per row."""
        wall_s = self._pass(now_s)
        shares = split_step(wall_s * self.opening.devices, rows, self._model)
        for row, share, produced in zip(rows, shares, output_tokens, strict=True):
            part = self._part(row.tenant, row.adapter)
            part.device_s += share
            part.kv_token_s += row.context_tokens * wall_s
            part.prompt_tokens += row.prefill_tokens
            part.output_tokens += produced
        self._roll(now_s)
        return shares

    def wait(self, now_s: float, *, in_flight: bool) -> None:
        """Book the time since the last mark as overhead while requests are in flight, else as idle."""
        seconds = self._pass(now_s) * self.opening.devices
        if in_flight:
            self._overhead_s += seconds
        else:
            self._idle_s += seconds
        self._roll(now_s)

    def close(self) -> None:
        """Write the open window; calling it again does nothing."""
        self._write_window()
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _pass(self, now_s: float) -> float:
        """Seconds since the last mark, which moves to now."""
        if now_s < self._mark_s:
            raise ValueError(f"time runs back: {now_s} after {self._mark_s}; expected a monotonic clock")
        seconds, self._mark_s = now_s - self._mark_s, now_s
        return seconds

    def _part(self, tenant: str, adapter: str) -> Part:
        return self._parts.setdefault((tenant, adapter), Part(tenant, adapter))

    def _roll(self, now_s: float) -> None:
        if now_s - self._start_s >= WINDOW_S:
            self._write_window()

    def _write_window(self) -> None:
        wall_s = self._mark_s - self._start_s
        if wall_s <= 0:
            return
        window = Window(self._start_s, wall_s, list(self._parts.values()), self._overhead_s, self._idle_s)
        self.windows.append(window)
        if self._keep is not None:
            del self.windows[: -self._keep or None]
        self._append(window)
        self._start_s = self._mark_s
        self._parts, self._overhead_s, self._idle_s = {}, 0.0, 0.0

    def _append(self, record: Opening | Window) -> None:
        if self._stream is None:
            return
        self._stream.write(msgspec.json.encode(record) + b"\n")
        self._stream.flush()
        os.fsync(self._stream.fileno())


def _open_to_append(path: Path) -> BinaryIO:
    """Open a ledger at its end, past a line that a kill has cut."""
    stream = path.open("ab+")
    if stream.seek(0, os.SEEK_END) > 0:
        stream.seek(-1, os.SEEK_END)
        if stream.read(1) != b"\n":
            stream.write(b"\n")
    return stream
