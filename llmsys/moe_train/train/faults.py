"""Faults on purpose: `40:kill:2;90@vote:kill:0+3;150:add:2;t=12.5:stop:1`, parsed, and struck where a worker stands.

A worker kills, stops or slows itself at a named site of a step, so that a run with faults repeats exactly. Knows no
supervisor.
"""

import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from llmsys.errors import UsageFault

__all__ = ["SIGNALS", "SITES", "Fault", "FaultPoint", "faults_text", "parse_faults"]

SITES = ("forward", "dispatch", "backward", "sync", "vote", "apply", "transfer", "plan", "ckpt")
BETWEEN_STEPS = ("transfer", "plan", "ckpt")
SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}
SHAPE = "STEP:kill:W[+W], STEP:stop:W, STEP:notice:W, STEP:slow:W:FACTOR, STEP:add:K, STEP@SITE:kill:W or t=S:kill:W"

_PATTERN = re.compile(
    r"(?:t=(?P<time>\d+(?:\.\d+)?)|(?P<step>\d+)(?:@(?P<site>[a-z]+))?)"
    r":(?P<kind>kill|stop|notice|slow|add):(?P<who>\d+(?:\+\d+)*)(?::(?P<factor>\d+(?:\.\d+)?))?"
)


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to `workers` (`count` new ones for add) at a `site` of a step, or `at_s` seconds into the run."""

    kind: str
    workers: tuple[int, ...] = ()
    step: int | None = None
    site: str = "forward"
    at_s: float | None = None
    count: int = 0
    factor: float = 1.0


def faults_text(given: str) -> str:
    """A fault list as given, or what a file of that name holds; - is stdin."""
    if given == "-":
        return sys.stdin.read()
    return Path(given).read_text(encoding="utf-8") if ":" not in given and Path(given).is_file() else given


def parse_faults(text: str) -> tuple[Fault, ...]:
    """The faults of a list, separated by `;` or line breaks. Raises UsageFault that names the entry."""
    entries = (entry.strip() for entry in re.split(r"[;\n]", text))
    return tuple(_parsed(entry) for entry in entries if entry)


def _parsed(entry: str) -> Fault:
    match = _PATTERN.fullmatch(entry)
    if match is None:
        raise UsageFault(f"--faults: {entry!r}; expected {SHAPE}")
    kind, site = match["kind"], match["site"]
    if site is not None and (site not in SITES or kind not in SIGNALS):
        raise UsageFault(f"--faults: {entry!r}; expected kill or stop at one of {', '.join(SITES)}")
    if (kind == "slow") != (match["factor"] is not None) or (match["time"] is not None and kind == "slow"):
        raise UsageFault(f"--faults: {entry!r}; expected a factor with slow, by step, and only there")
    numbers = tuple(int(number) for number in match["who"].split("+"))
    if kind == "add" and len(numbers) > 1:
        raise UsageFault(f"--faults: {entry!r}; expected one number of workers to add")
    return Fault(
        kind,
        workers=() if kind == "add" else numbers,
        step=None if match["step"] is None else int(match["step"]),
        site=site or "forward",
        at_s=None if match["time"] is None else float(match["time"]),
        count=numbers[0] if kind == "add" else 0,
        factor=float(match["factor"] or 1.0),
    )


class FaultPoint:
    """The faults that one worker does to itself; `tell(step, site, kind)` is called right before."""

    def __init__(self, worker: int, faults: Iterable[Fault], tell: Callable[[int, str, str], None]) -> None:
        own = [fault for fault in faults if worker in fault.workers and fault.step is not None]
        self._due = [fault for fault in own if fault.kind in SIGNALS]
        self._slow = [fault for fault in own if fault.kind == "slow"]
        self._tell = tell

    def reach(self, site: str, step: int) -> None:
        """Strike what is due here: in a step exactly its faults, between steps those of earlier ones as well."""
        for fault in self._due:
            assert fault.step is not None
            due = fault.step <= step if site in BETWEEN_STEPS else fault.step == step
            if fault.site == site and due:
                self._due.remove(fault)
                self._tell(step, site, fault.kind)
                os.kill(os.getpid(), SIGNALS[fault.kind])
                return

    def drag(self, step: int, busy_s: float) -> None:
        """Be as slow as the list says from its step on: a step whose own work took `busy_s` takes the factor longer."""
        factor = max((fault.factor for fault in self._slow if (fault.step or 0) <= step), default=1.0)
        if factor > 1.0:
            time.sleep((factor - 1.0) * busy_s)
