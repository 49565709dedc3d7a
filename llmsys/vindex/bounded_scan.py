"""The exact scan of a list, which reads a vector only where its code leaves a chance that it is among the nearest.

x = mean + scale * code + r, and the row of codes says how long r is. With the query in two codes, the second for what
the first leaves out, q - mean = step * coarse + fine_step * fine + s, the score of x differs from that of the codes by
at most |q - mean| |r| + |s| |scale * code|, twice that under l2. What is farther even so is passed over, nothing else.
Results are those of `scan.answer_twin`, which compares everything.
"""

import math

import numpy as np
from numpy.typing import NDArray

from llmsys.gpu.compiled import compiled as strict
from llmsys.vindex.arrays import F32, F64, I32, I64
from llmsys.vindex.codes import Bytes
from llmsys.vindex.compiled import AHEAD, dot_rows, fetch_row
from llmsys.vindex.ranking import Halves, exact_score, place

__all__ = ["look_closely", "scan_bounded"]

I8 = NDArray[np.int8]
Sight = tuple[float, float, int, int, float, float]


@strict
def look_closely(query: F32, mean: F32, coarse: I8, fine: I8) -> Sight:
    """Write both codes [s] of a query; step, fine step, what code + 128 adds to each, |q - mean|, |s| times 127 sqrt d.

    The last one times a row's scale bounds |s| |scale * code|.
    """
    largest, length = 0.0, 0.0
    for j in range(len(query)):
        gap = np.float64(query[j]) - np.float64(mean[j])
        largest, length = max(largest, abs(gap)), length + gap * gap
    step = largest / 127 if largest > 0 else 1.0
    most, total = 0.0, 0
    for j in range(len(query)):
        gap = np.float64(query[j]) - np.float64(mean[j])
        whole = np.rint(gap / step)
        coarse[j], total, most = np.int8(whole), total + int(whole), max(most, abs(gap - step * whole))
    fine_step = most / 127 if most > 0 else 1.0
    left, fine_total = 0.0, 0
    for j in range(len(query)):
        gap = np.float64(query[j]) - np.float64(mean[j]) - step * coarse[j]
        whole = np.rint(gap / fine_step)
        fine[j], fine_total = np.int8(whole), fine_total + int(whole)
        left += (gap - fine_step * whole) ** 2
    widest = 127 * math.sqrt(len(query)) * math.sqrt(left)
    return step, fine_step, 128 * total, 128 * fine_total, math.sqrt(length), widest


@strict
def scan_bounded(  # noqa: PLR0913, PLR0917
    slots: I32, query: F32, coarse: I8, fine: I8, sight: Sight, rows: Bytes, numbers: F32, vectors: F32,
    halves: Halves, order: I64, l2: bool, found: I32, score: F64, count: int,
) -> int:  # fmt: skip
    """Place the slots among the `count` nearest found [k] with score [k]; how many there are now."""
    step, fine_step, shift, fine_shift, length, widest = sight
    twice, own = (2.0, length * length) if l2 else (1.0, 0.0)
    last = numbers.shape[1] - 1
    for at in range(len(slots)):
        if at + AHEAD < len(slots):
            fetch_row(rows, slots[at + AHEAD])
        slot = slots[at]
        if count == len(found):
            dot = step * float(dot_rows(rows, slot, coarse) - shift)
            dot += fine_step * float(dot_rows(rows, slot, fine) - fine_shift)
            left, scale, bias = (
                float(numbers[slot, last - 2]),
                float(numbers[slot, last - 1]),
                float(numbers[slot, last]),
            )
            least = own + bias - twice * (scale * (dot + widest) + length * left)
            # Rounding: the bias is a float32, and the sums cancel. A bias beyond float32 is infinite: no bound.
            least -= 2e-7 * bias + 1e-11 * own + 1e-8 * length * scale
            if score[count - 1] < least < math.inf:
                continue
        near = exact_score(query, vectors, halves, slot, l2)
        if count < len(found) or near <= score[count - 1]:
            count = place(slot, near, order, found, score, count)
    return count
