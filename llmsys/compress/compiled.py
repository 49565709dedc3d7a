"""Compile a loop over arrays with numba, kept on disk, without the GIL and without reordering any sum.

A bitstream must decode to the same bytes everywhere, so floating-point shortcuts stay off. Knows no loop.
"""

from collections.abc import Callable
from typing import TypeVar, cast

import numba

__all__ = ["compiled"]

F = TypeVar("F", bound=Callable[..., object])


def compiled(function: F) -> F:
    """The function, compiled at its first call; a later process loads the machine code from disk."""
    return cast(F, numba.njit(cache=True, nogil=True)(function))
