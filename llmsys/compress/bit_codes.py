"""Exp-Golomb codes of small whole numbers in a string of bits: side information, escapes, tables.

A number v >= 0 under order k is (v >> k) + 1 written with as many leading zeros as it has further bits, then the k low
bits of v. Knows nothing of what the numbers mean; a string that ends early is refused, never read past.
"""

import numpy as np
from numpy.typing import NDArray

from llmsys.gpu.compiled import compiled

__all__ = ["code_bits", "read_numbers", "unzigzag", "write_numbers", "zigzag"]

I64 = NDArray[np.int64]
Bytes = NDArray[np.uint8]
LONGEST_PREFIX = 40


def zigzag(values: I64) -> I64:
    """Signed numbers as 0, 1, 2, … for 0, −1, 1, …, in any shape."""
    return np.where(values < 0, -2 * values - 1, 2 * values)


def unzigzag(codes: I64) -> I64:
    """What `zigzag` was given."""
    return np.where(codes & 1, -((codes + 1) >> 1), codes >> 1)


def code_bits(values: I64, order: int) -> int:
    """Bits that the codes of values [n] take together."""
    if not len(values):
        return 0
    high = np.floor(np.log2((values >> order) + 1)).astype(np.int64)
    return int((2 * high + 1 + order).sum())


def write_numbers(values: I64, order: int) -> bytes:
    """The codes of values [n] >= 0, one after another, filled to whole bytes with zeros."""
    values = np.ascontiguousarray(values, np.int64)
    out = np.zeros((code_bits(values, order) + 7) // 8, np.uint8)
    _write(values, order, out)
    return out.tobytes()


def read_numbers(data: bytes, count: int, order: int) -> I64 | None:
    """The first `count` numbers of a string of codes; None where it ends early or holds no code."""
    if count > 8 * len(data):
        return None
    values = np.zeros(count, np.int64)
    return values if _read(np.frombuffer(data, np.uint8), order, values) else None


@compiled
def _write(values: I64, order: int, out: Bytes) -> None:
    at = 0
    for v in values:
        whole = (v >> order) + 1
        width = 0
        while (whole >> (width + 1)) > 0:
            width += 1
        at += width
        for bit in range(width, -1, -1):
            out[at >> 3] |= ((whole >> bit) & 1) << (7 - (at & 7))
            at += 1
        for bit in range(order - 1, -1, -1):
            out[at >> 3] |= ((v >> bit) & 1) << (7 - (at & 7))
            at += 1


@compiled
def _read(data: Bytes, order: int, values: I64) -> bool:
    at, end = 0, 8 * len(data)
    for i in range(len(values)):
        width = 0
        while at < end and ((data[at >> 3] >> (7 - (at & 7))) & 1) == 0:
            width += 1
            at += 1
        if width > LONGEST_PREFIX or at + width + 1 + order > end:
            return False
        whole = np.int64(0)
        for _ in range(width + 1):
            whole = (whole << 1) | ((data[at >> 3] >> (7 - (at & 7))) & 1)
            at += 1
        low = np.int64(0)
        for _ in range(order):
            low = (low << 1) | ((data[at >> 3] >> (7 - (at & 7))) & 1)
            at += 1
        values[i] = ((whole - 1) << order) | low
    return True
