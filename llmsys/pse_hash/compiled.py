"""The inner loop of the exact sum as numba compiles it: row maxima and sums of 2^x over one tile held in cache.

Its numpy twin `fold_reference` is the definition. Knows no kernel: it gets exponents to base 2.
"""

from functools import partial

import numpy as np

from llmsys.gpu.compiled import compile_loop
from llmsys.pse_hash.arrays import F32, F64, I32

__all__ = ["DEAD", "fold", "fold_reference"]

DEAD = np.float32(-1e30)
FAST = {"reassoc", "contract", "nsz", "nnan"}
LOG_2 = float(np.log(2))
C1, C2, C3, C4, C5, C6 = (np.float32(LOG_2**k / float(np.prod(np.arange(1, k + 1)))) for k in range(1, 7))


def fold_reference(tile: F32, bias: F32, top: F64, total: F64) -> None:
    """Add sum_j 2^(tile[i,j] + bias[j]) to the running sums total[i] * 2^top[i]; tile [q, t] is overwritten."""
    tile += bias
    best = np.maximum(top, tile.max(axis=1))
    alive = best > DEAD / 2
    total[alive] *= np.exp2(top[alive] - best[alive])
    total[alive] += np.exp2(tile[alive] - best[alive, None]).sum(axis=1)
    top[alive] = best[alive]


@partial(compile_loop, fastmath=FAST)
def fold(tile: F32, bias: F32, top: F64, total: F64, power: F32, bits: I32) -> None:
    """`fold_reference` in one pass; `bits` is the int32 view of `power` [t]: 2^floor(x) is written as its exponent."""
    for i in range(tile.shape[0]):
        row = tile[i]
        best = np.float32(-3e38)
        for j in range(row.shape[0]):
            row[j] += bias[j]
            best = max(best, row[j])
        if best <= np.float32(-5e29):
            continue
        if best > top[i]:
            total[i] *= 2.0 ** (top[i] - best)
            top[i] = best
        shift = np.float32(top[i])
        for j in range(row.shape[0]):
            x = max(row[j] - shift, np.float32(-126.0))
            whole = np.floor(x + np.float32(0.5))
            f = x - whole
            bits[j] = (np.int32(whole) + np.int32(127)) << np.int32(23)
            row[j] = np.float32(1) + f * (C1 + f * (C2 + f * (C3 + f * (C4 + f * (C5 + f * C6)))))
        part = np.float32(0.0)
        for j in range(row.shape[0]):
            part += row[j] * power[j]
        total[i] += part
