"""Compile a loop over arrays with numba, and say whether that costs a wait.

Compiled code stays on disk: a later process loads it. Knows no loop.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, cast

import numba

__all__ = ["compiled", "is_ready"]

F = TypeVar("F", bound=Callable[..., object])
FAST = {"reassoc", "contract", "nsz"}


def compiled(function: F) -> F:
    """The function, compiled at its first call and kept on disk; it releases the GIL and may reorder sums."""
    return cast(F, numba.njit(cache=True, nogil=True, fastmath=FAST)(function))


def is_ready(function: Callable[..., object]) -> bool:
    """Whether a call starts at once: the function was compiled in this process, or its machine code is on disk."""
    stats = function.stats  # type: ignore[attr-defined]
    if function.signatures:  # type: ignore[attr-defined]
        return True
    name = function.__qualname__
    return any(Path(stats.cache_path).glob(f"*.{name}-*.nbc"))
