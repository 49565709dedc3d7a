"""What the device can do at best, measured on the spot: bytes read per second and multiply-adds per second.

Every figure of a bench is also printed as a share of these. Nothing is cached: a laptop on battery is another machine.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from llmsys.gpu.dtypes import DTYPES, dtype_name

__all__ = ["Ceilings", "measure_ceilings"]

CPU_READ_BYTES = 1 << 28  # past any cache of a server's last level but the largest
GPU_READ_BYTES = 1 << 30
LEAST_SIZE, GREATEST_SIZE = 128, 16384
ROW = 4096


@dataclass(frozen=True, slots=True)
class Ceilings:
    """read_bytes_s: the fastest streaming read. flop_s: dtype name → 2·n³/seconds of the fastest square matmul.

    elapsed_s is what the measurement took. A busy machine gives lower figures, never higher ones.
    """

    device: str
    read_bytes_s: float
    flop_s: dict[str, float]
    elapsed_s: float


def measure_ceilings(
    device: torch.device, *, budget_s: float = 1.6, dtypes: tuple[torch.dtype, ...] | None = None
) -> Ceilings:
    """Measure the device's ceilings in about `budget_s` seconds, shared evenly by the bandwidth and each dtype.

    Without `dtypes`: all three. Raises ValueError for a budget that is not positive.
    """
    if not budget_s > 0:
        raise ValueError(f"budget_s {budget_s} is not positive")
    wanted = tuple(DTYPES.values()) if dtypes is None else dtypes
    started = time.perf_counter()
    share_s = budget_s / (1 + len(wanted))
    read = _read_bytes_s(device, share_s)
    flop_s = {dtype_name(dtype): _flop_s(device, dtype, share_s) for dtype in wanted}
    return Ceilings(str(device), read, flop_s, time.perf_counter() - started)


def _read_bytes_s(device: torch.device, budget_s: float) -> float:
    """The best of matrix-vector products that read a float32 matrix far larger than any cache."""
    size = GPU_READ_BYTES if device.type == "cuda" else CPU_READ_BYTES
    matrix = torch.ones(size // (4 * ROW), ROW, device=device)
    vector = torch.ones(ROW, device=device)
    out = torch.ones(matrix.shape[0], device=device)
    return size / _fastest_s(lambda: torch.mv(matrix, vector, out=out), device, budget_s)


def _flop_s(device: torch.device, dtype: torch.dtype, budget_s: float) -> float:
    """The best matmul rate over sizes that double for as long as the next one fits into half of what is left."""
    deadline = time.perf_counter() + budget_s
    best, size = 0.0, LEAST_SIZE
    while True:
        left = torch.ones(size, size, dtype=dtype, device=device)
        out = torch.ones_like(left)
        rest_s = deadline - time.perf_counter()
        fastest = _fastest_s(lambda: torch.mm(left, left, out=out), device, rest_s / 4)  # noqa: B023
        best = max(best, 2.0 * size**3 / fastest)
        rest_s = deadline - time.perf_counter()
        if size >= GREATEST_SIZE or 2 * 8 * fastest > rest_s / 2:
            return best
        size *= 2


def _fastest_s(work: Callable[[], object], device: torch.device, budget_s: float) -> float:
    """The least time of one run: a first run that warms up, then at least one more, until the budget is spent."""
    deadline = time.perf_counter() + budget_s
    best = math.inf
    work()
    while True:
        best = min(best, _once_s(work, device))
        if time.perf_counter() >= deadline:
            return best


def _once_s(work: Callable[[], object], device: torch.device) -> float:
    from llmsys.gpu.timing import Timer

    with Timer(device) as timer:
        work()
    return max(timer.device_s, 1e-9)
