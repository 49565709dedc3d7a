"""y[i] += B_i (A_i x[i]) with each row's own low-rank matrices, found by address, as one compiled loop (Punica, §4).

A row reads its matrices once and from end to end, so memory bandwidth bounds it; the threads of the team share the
rows. Sums are float32, in an order that no other row changes. Knows nothing of slots or files; `lora` has the same
product as matmuls, which is its twin.
"""

from typing import Any

import numpy as np
from numba import carray

from llmsys.engine.loops import as_stored, widened
from llmsys.engine.lora import RANKS_AT_ONCE
from llmsys.engine.team import TeamLoop, compiled, pointer, team_size, thread_number

__all__ = ["add_row", "row_loop"]

Array = np.ndarray[Any, np.dtype[Any]]
ZERO = np.float32(0.0)
RECORD = np.dtype([(name, "i8") for name in ("tokens", "width", "out", "slices", "rows", "y", "x", "bounds", "whose")])


@compiled
def _shrink(x: Array, a: Array, r: int) -> tuple[Any, Any, Any, Any]:
    """Inner products of x [width] with four rows of a [rank, width] from r on."""
    a0, a1, a2, a3 = a[r], a[r + 1], a[r + 2], a[r + 3]
    h0 = h1 = h2 = h3 = ZERO
    for k in range(x.shape[0]):
        h0 += x[k] * widened(a0[k])
        h1 += x[k] * widened(a1[k])
        h2 += x[k] * widened(a2[k])
        h3 += x[k] * widened(a3[k])
    return h0, h1, h2, h3


@compiled
def _expand(h: tuple[Any, Any, Any, Any], b: Array, r: int, part: Array) -> None:
    """Add four rows of b [rank, columns] from r on, times h, to part [columns]."""
    b0, b1, b2, b3 = b[r], b[r + 1], b[r + 2], b[r + 3]
    h0, h1, h2, h3 = h
    for o in range(part.shape[0]):
        part[o] += (h0 * widened(b0[o]) + h1 * widened(b1[o])) + (h2 * widened(b2[o]) + h3 * widened(b3[o]))


@compiled
def add_row(x: Array, a: Array, b: Array, part: Array, y: Array) -> None:
    """y += (x aᵀ) b for one row and one slice: x [width] float32, a [rank, width], b [rank, columns], y [columns].

    part [columns] float32 is room to work in.
    """
    part[:] = ZERO
    for r in range(0, a.shape[0], RANKS_AT_ONCE):
        _expand(_shrink(x, a, r), b, r, part)
    for o in range(y.shape[0]):
        y[o] = as_stored(widened(y[o]) + part[o], y[o])


def row_loop(element: Any) -> TeamLoop:  # noqa: ANN401
    """The loop over a team for memory of numpy type `element` (uint16 for bfloat16); it takes RECORD's fields.

    In memory: y [tokens, out] and x [tokens, width]; bounds [slices + 1], the columns of each slice; whose [rows, 5],
    each the number of a row of y and x, the addresses of its a [slices, rank, width] and b (a [rank, columns] for every
    slice, one after the other), the rank, and a bit for each slice that is not zero.
    """

    def add(given: Any) -> None:  # noqa: ANN401
        r = carray(given, 1)[0]
        x = carray(pointer(r.x, element), (r.tokens, r.width))
        y = carray(pointer(r.y, element), (r.tokens, r.out))
        bounds = carray(pointer(r.bounds, np.int64), (r.slices + 1,))
        whose = carray(pointer(r.whose, np.int64), (r.rows, 5))
        own, part = np.empty(r.width, np.float32), np.empty(r.out, np.float32)
        thread, threads = thread_number(), team_size()
        for i in range(r.rows * thread // threads, r.rows * (thread + 1) // threads):
            row, a_address, b_address, rank, present = whose[i]
            a = carray(pointer(a_address, element), (r.slices, rank, r.width))
            b = carray(pointer(b_address, element), (rank * r.out,))
            for k in range(r.width):
                own[k] = widened(x[row, k])
            for s in range(r.slices):
                if (present >> s) & 1:
                    low, high = bounds[s], bounds[s + 1]
                    columns = b[rank * low : rank * high].reshape((rank, high - low))
                    add_row(own, a[s], columns, part[: high - low], y[row, low:high])

    return TeamLoop(add, RECORD)
