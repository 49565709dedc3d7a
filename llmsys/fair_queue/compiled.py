"""Compile a loop over arrays with numba, keeping its type.

The plain function stays reachable as `.py_func`; tests run both.
"""

from collections.abc import Callable
from typing import TypeVar, cast

import numba

__all__ = ["compiled"]

F = TypeVar("F", bound=Callable[..., object])


def compiled(function: F) -> F:
    """The function, compiled at its first call and kept on disk; it releases the GIL."""
    return cast(F, numba.njit(cache=True, nogil=True)(function))
