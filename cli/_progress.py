"""Progress of long work: a rich bar on a terminal, a line every few seconds in a log.

Knows only how many units are done; what they are is the caller's.
"""

import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Bar", "Lines"]

LINE_EVERY_S = 5.0


class Bar:
    """A bar with rate and time left; call it with the units that were done."""

    def __init__(self, console: "Console", what: str, total: int | None) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._task = self._progress.add_task(what, total=total, rate="")
        self._started_s = time.monotonic()
        self._done = 0
        self._progress.start()

    def __call__(self, units: int) -> None:
        self._done += units
        rate = self._done / max(time.monotonic() - self._started_s, 1e-9)
        self._progress.update(self._task, advance=units, rate=f"{rate:,.1f}/s")

    def close(self) -> None:
        """Take the bar away."""
        self._progress.stop()


class Lines:
    """A line to stderr every few seconds, for logs; call it with the units that were done."""

    def __init__(self, what: str, total: int | None, *, silent: bool) -> None:
        self._what = what
        self._total = total
        self._silent = silent
        self._done = 0
        self._started_s = self._told_s = time.monotonic()

    def __call__(self, units: int) -> None:
        self._done += units
        now_s = time.monotonic()
        if not self._silent and now_s - self._told_s >= LINE_EVERY_S:
            self._told_s = now_s
            rate = self._done / (now_s - self._started_s)
            of = f" of {self._total}" if self._total is not None else ""
            sys.stderr.write(f"{self._what}: {self._done}{of}, {rate:,.1f}/s\n")

    def close(self) -> None:
        """Nothing to take away."""
