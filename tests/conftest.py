"""What every test stands on: Triton's mode, thread counts under xdist, the device, and poison in fresh memory.

Runs before any test module is imported, because numpy, torch and Triton read their environment when they load.
"""

import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

settings.register_profile("house", deadline=None)  # no test reads a clock to decide
settings.load_profile("house")

POISON_LIMIT_BYTES = 1 << 26  # an arena that is committed page by page must stay uncommitted
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def _has_cuda() -> bool:
    """Whether torch sees a GPU; torch is only asked where the system has such a device file."""
    if not any(Path("/dev").glob("nvidia[0-9]*")) and not Path("/dev/kfd").exists() and not Path("/dev/dxg").exists():
        return False
    import torch

    return torch.cuda.is_available()


def _share_threads() -> None:
    """Give each xdist worker its share of the CPUs; a lone process keeps them all."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if workers > 1:
        share = max(1, len(os.sched_getaffinity(0)) // workers)
        for name in THREAD_VARIABLES:
            os.environ.setdefault(name, str(share))


def _hear_interrupts() -> None:
    """Undo what a shell does to background jobs: with SIGINT ignored here, no program a test starts would hear it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _keep_caches_apart() -> None:
    """Let tests, and the commands they start, convert a model once for all runs, and not in the user's cache."""
    os.environ["XDG_CACHE_HOME"] = str(Path(tempfile.gettempdir()) / f"llmsys-tests-{os.getuid()}")


os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as `llmsys` does: two workers stall each other otherwise
_hear_interrupts()
_share_threads()
_keep_caches_apart()
if not _has_cuda():
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip, by name, a test marked `gpu` where there is none."""
    if item.get_closest_marker("gpu") is not None and not _has_cuda():
        pytest.skip("no CUDA device")


@pytest.fixture
def device() -> Any:
    """The device that kernels run on: the first GPU, else the CPU under Triton's interpreter."""
    import torch

    return torch.device("cuda", 0) if _has_cuda() else torch.device("cpu")


@pytest.fixture(autouse=True)
def poisoned_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill what torch.empty and torch.empty_like return with NaN, so that an element nobody wrote fails a test."""
    torch = sys.modules.get("torch")
    if torch is None:
        return

    def poisoned(allocate: Callable[..., Any]) -> Callable[..., Any]:
        def allocate_poisoned(*sizes: Any, **options: Any) -> Any:
            fresh = allocate(*sizes, **options)
            small = fresh.numel() * fresh.element_size() <= POISON_LIMIT_BYTES
            if fresh.dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64) and small:
                with torch.no_grad():
                    fresh.fill_(float("nan"))
            return fresh

        return allocate_poisoned

    for name in ("empty", "empty_like"):
        monkeypatch.setattr(torch, name, poisoned(getattr(torch, name)))
