"""Time a piece of work: wall clock, CPU and, on a GPU, CUDA events; repeat it and say whether to trust the figure.

Knows nothing of what it times. Never a gate in a test: it reads clocks.
"""

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import torch

__all__ = ["Measurement", "Timer", "measure"]

TOO_SHORT_S = 50e-6
WIDE_SPREAD = 0.2
BUSY_SHARE = 0.1


class Timer:
    """Times the block it manages: `with Timer(device) as timer: …`, then `timer.wall_s`.

    On a GPU it waits for the device at both ends, and `device_s` is the time between two CUDA events; on a CPU
    `device_s` equals `wall_s`. `cpu_s` is the CPU time of all threads of this process.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self._cuda = device if device is not None and device.type == "cuda" else None
        self.wall_s = self.cpu_s = self.device_s = 0.0

    def __enter__(self) -> Self:
        if self._cuda is not None:
            self._started = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            torch.cuda.synchronize(self._cuda)
            self._started.record(torch.cuda.current_stream(self._cuda))
        self._cpu_s = time.process_time()
        self._wall_s = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._cuda is not None:
            ended = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            ended.record(torch.cuda.current_stream(self._cuda))
            torch.cuda.synchronize(self._cuda)
            self.device_s = self._started.elapsed_time(ended) / 1e3
        self.wall_s = time.perf_counter() - self._wall_s
        self.cpu_s = time.process_time() - self._cpu_s
        if self._cuda is None:
            self.device_s = self.wall_s


@dataclass(frozen=True, slots=True)
class Measurement:
    """Seconds per run: the least, the median, and the spread (greatest − least) / median; and what to doubt.

    `busy` is the share of the CPUs that other processes used meanwhile, None where the system does not tell.
    """

    min_s: float
    median_s: float
    spread: float
    cpu_s: float
    runs: int
    busy: float | None
    warnings: tuple[str, ...]


def measure(
    work: Callable[[], object], *, device: torch.device | None = None, runs: int = 5, warmup: int = 2
) -> Measurement:
    """Run `work` `warmup` times unmeasured, then `runs` times, and sum up; times are the device's own on a GPU.

    Raises ValueError for fewer than one run or a negative warm-up.
    """
    if runs < 1 or warmup < 0:
        raise ValueError(f"runs {runs} and warmup {warmup} do not fit; expected runs >= 1 and warmup >= 0")
    for _ in range(warmup):
        work()
    before = _busy_cpu_s()
    timers = []
    with Timer(device) as whole:
        for _ in range(runs):
            with Timer(device) as timer:
                work()
            timers.append(timer)
    after = _busy_cpu_s()
    busy = None if before is None or after is None else _share_of_others(after - before, whole)
    return _sum_up(timers, busy)


def _sum_up(timers: list[Timer], busy: float | None) -> Measurement:
    times = sorted(timer.device_s for timer in timers)
    median = statistics.median(times)
    spread = (times[-1] - times[0]) / median if median > 0 else 0.0
    return Measurement(
        min_s=times[0],
        median_s=median,
        spread=spread,
        cpu_s=statistics.median(timer.cpu_s for timer in timers),
        runs=len(timers),
        busy=busy,
        warnings=tuple(_doubts(median, spread, busy)),
    )


def _doubts(median_s: float, spread: float, busy: float | None) -> list[str]:
    """What makes the figure doubtful, each with what to do."""
    doubts = []
    if median_s < TOO_SHORT_S:
        doubts.append(f"a run takes {median_s * 1e6:.1f} µs, near the clock's own cost: time more work per run")
    if spread > WIDE_SPREAD:
        doubts.append(f"the runs differ by {spread:.0%} of the median: take more runs, and trust the least")
    if busy is not None and busy > BUSY_SHARE:
        doubts.append(f"other processes used {busy:.0%} of the CPUs meanwhile: repeat on a quiet machine")
    return doubts


def _busy_cpu_s() -> float | None:
    """Seconds of CPU time that all processes have spent on the CPUs this one may use."""
    try:
        import psutil  # type: ignore[import-untyped]

        per_cpu = psutil.cpu_times(percpu=True)
    except (ImportError, OSError):
        return None
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(len(per_cpu))
    seen = [per_cpu[cpu] for cpu in allowed if cpu < len(per_cpu)]
    return float(sum(sum(cpu) - cpu.idle - getattr(cpu, "iowait", 0.0) - getattr(cpu, "guest", 0.0) for cpu in seen))


def _share_of_others(busy_cpu_s: float, whole: Timer) -> float:
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = (busy_cpu_s - whole.cpu_s) / max(whole.wall_s * cpus, 1e-9)
    return min(max(share, 0.0), 1.0)
