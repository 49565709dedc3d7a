"""y[i] += B_i (A_i x[i]) with each row's own low-rank matrices, found by address, as one compiled loop (Punica, §4).

A row reads its matrices once and from end to end, while those of the next row are called from memory: without that, the
processor starts to read ahead only when half of such a short piece is gone, and the loop takes twice as long. So memory
bandwidth bounds it; the threads of the team share the rows. Sums are float32, in an order that no other row changes.
Knows nothing of slots or files; `lora` has the same product as matmuls, which is its twin.
"""

from typing import Any

import numpy as np
from numba import carray

from llmsys.engine.loops import as_stored, widened
from llmsys.engine.team import TeamLoop, compiled, pointer, prefetch, team_size, thread_number

__all__ = ["add_row", "row_loop"]

Array = np.ndarray[Any, np.dtype[Any]]
ZERO = np.float32(0.0)
LINE_BYTES = 64
RECORD = np.dtype([(name, "i8") for name in ("tokens", "width", "out", "slices", "rows", "y", "x", "bounds", "whose")])


@compiled
def _call_ahead(address: int, size: int) -> None:
    for place in range(address, address + size, LINE_BYTES):
        prefetch(place)


@compiled
def add_row(  # noqa: PLR0917 (arrays, not settings)
    x: Array, a: Array, b: Array, h: Array, part: Array, y: Array, ahead: int, ahead_b: int
) -> None:
    """y += (x aᵀ) b for one row and one slice: x [width] float32, a [rank, width], b [rank, columns], y [columns].

    h [rank] and part [columns] float32 are room to work in; ahead and ahead_b are the next row's a and b in memory.
    """
    rank, element = a.shape[0], a.itemsize
    for r in range(rank):
        _call_ahead(ahead + r * a.shape[1] * element, a.shape[1] * element)
        own, total = a[r], ZERO
        for k in range(x.shape[0]):
            total += x[k] * widened(own[k])
        h[r] = total
    part[:] = ZERO
    for r in range(rank):
        _call_ahead(ahead_b + r * b.shape[1] * element, b.shape[1] * element)
        own, weight = b[r], h[r]
        for o in range(part.shape[0]):
            part[o] += weight * widened(own[o])
    for o in range(y.shape[0]):
        y[o] = as_stored(widened(y[o]) + part[o], y[o])


def row_loop(element: Any) -> TeamLoop:  # noqa: ANN401
    """The loop over a team for memory of numpy type `element` (uint16 for bfloat16); it takes RECORD's fields.

    In memory: y [tokens, out] and x [tokens, width]; bounds [slices + 1], the columns of each slice; whose [rows, 4],
    each the number of a row of y and x, the address of its matrices, their rank, and a bit for each slice that is not
    zero. The matrices are, one after the other, a [slices, rank, width] and for every slice b [rank, columns].
    """

    def add(given: Any) -> None:  # noqa: ANN401
        g = carray(given, 1)[0]
        x = carray(pointer(g.x, element), (g.tokens, g.width))
        y = carray(pointer(g.y, element), (g.tokens, g.out))
        bounds = carray(pointer(g.bounds, np.int64), (g.slices + 1,))
        whose = carray(pointer(g.whose, np.int64), (g.rows, 4))
        wide, part = np.empty(g.width, np.float32), np.empty(g.out, np.float32)
        thread, threads = thread_number(), team_size()
        end = g.rows * (thread + 1) // threads
        for i in range(g.rows * thread // threads, end):
            row, address, rank, present = whose[i]
            following = whose[min(i + 1, end - 1), 1]
            memory = carray(pointer(address, element), (rank * (g.slices * g.width + g.out),))
            h = np.empty(rank, np.float32)
            for k in range(g.width):
                wide[k] = widened(x[row, k])
            for s in range(g.slices):
                if (present >> s) & 1:
                    low, high = bounds[s], bounds[s + 1]
                    at_a, at_b = s * rank * g.width, rank * (g.slices * g.width + low)
                    a = memory[at_a : at_a + rank * g.width].reshape((rank, g.width))
                    b = memory[at_b : at_b + rank * (high - low)].reshape((rank, high - low))
                    room = part[: high - low]
                    ahead, ahead_b = following + at_a * memory.itemsize, following + at_b * memory.itemsize
                    add_row(wide, a, b, h, room, y[row, low:high], ahead, ahead_b)

    return TeamLoop(add, RECORD)
