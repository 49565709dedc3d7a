"""Frequency tables of 4096 for rANS: made from counts, and written small enough to go with every tensor.

A mirrored table gives k and −k the same frequency, as weights do; a plain one is for exponents. Knows no bit of a
stream but its own.
"""

import numpy as np
from numpy.typing import NDArray

from llmsys.compress.bit_codes import read_numbers, unzigzag, write_numbers, zigzag
from llmsys.compress.rans import TOTAL

__all__ = [
    "MIDDLE",
    "mirrored",
    "plain",
    "read_mirrored",
    "read_plain",
    "steering_bits",
    "symbol_bits",
    "write_mirrored",
    "write_plain",
]

MIDDLE = 32
"""Symbol of k = 0 in a mirrored table; symbols are k + MIDDLE for −32 <= k <= 32."""
ORDER = 3

U16 = NDArray[np.uint16]
I64 = NDArray[np.int64]
F64 = NDArray[np.float64]


def mirrored(counts: I64) -> I64:
    """Magnitude frequencies [contexts, 33] of magnitude counts [contexts, 33]; f0 + 2·(f1 + …) is 4096.

    Every magnitude up to the largest that was seen gets 1 or more.
    """
    result = np.zeros(counts.shape, np.int64)
    for context, row in enumerate(counts):
        total, seen = int(row.sum()), np.flatnonzero(row)
        largest = int(seen[-1]) if len(seen) else 0
        if largest:
            share = TOTAL * row[1 : largest + 1] / (2 * total)
            result[context, 1 : largest + 1] = np.maximum(1, np.floor(share + 0.5))
        while (over := 2 * int(result[context, 1:].sum()) - (TOTAL - 2)) > 0:
            result[context, 1 + int(result[context, 1:].argmax())] -= max(1, over // 4)
        result[context, 0] = TOTAL - 2 * int(result[context, 1:].sum())
    return result


def symbol_bits(magnitudes: I64) -> F64:
    """Bits [contexts, 33] that a value of each magnitude costs, its sign included; 30 for one that has no code."""
    return np.where(magnitudes > 0, 12 - np.log2(np.maximum(magnitudes, 1)), 30.0)


def steering_bits(magnitudes: I64) -> F64:
    """`symbol_bits` for a quantiser to weigh: magnitudes that were not seen go on as the last seen ones fall.

    Without it, what was never chosen would stay too dear to be chosen ever.
    """
    bits = symbol_bits(magnitudes)
    for row in bits:
        for magnitude in range(1, len(row)):
            if row[magnitude] >= 30:
                fall = row[magnitude - 1] - row[magnitude - 2] if magnitude > 1 else 2.0
                row[magnitude] = row[magnitude - 1] + min(3.0, max(1.0, fall))
    return bits


def write_mirrored(magnitudes: I64) -> bytes:
    """Magnitude frequencies [contexts, 33] as bytes: per context the largest magnitude, then what a guess misses."""
    numbers: list[int] = []
    for row in magnitudes:
        largest = int(np.flatnonzero(row)[-1])
        numbers.append(largest)
        missed = row[1 : largest + 1] - _guesses(row, largest)
        numbers += zigzag(missed).tolist()
    return write_numbers(np.array(numbers, np.int64), ORDER)


def read_mirrored(data: bytes, contexts: int) -> U16 | None:
    """Frequencies [contexts, 65] of symbols k + MIDDLE; None for bytes that are no tables."""
    result = np.zeros((contexts, 2 * MIDDLE + 1), np.uint16)
    numbers = read_numbers(data, contexts, ORDER)
    if numbers is None:
        return None
    at = 0
    for context in range(contexts):
        found = read_numbers(data, at + 1, ORDER)
        if found is None or (largest := int(found[at])) > MIDDLE:
            return None
        found = read_numbers(data, at + 1 + largest, ORDER)
        if found is None:
            return None
        row = _restored(unzigzag(found[at + 1 :]), largest)
        if row is None:
            return None
        result[context, MIDDLE:] = row
        result[context, :MIDDLE] = row[:0:-1]
        at += 1 + largest
    return result


def _guess(row: I64, magnitude: int) -> int:
    """The frequency of a magnitude as those before it foretell: a geometric fall."""
    if magnitude == 1:
        return TOTAL // 8
    before, last = int(row[magnitude - 2]), int(row[magnitude - 1])
    return last if magnitude == 2 or before == 0 else min(last, last * last // before)


def _guesses(row: I64, largest: int) -> I64:
    return np.array([_guess(row, magnitude) for magnitude in range(1, largest + 1)], np.int64)


def _restored(missed: I64, largest: int) -> I64 | None:
    row = np.zeros(MIDDLE + 1, np.int64)
    for magnitude in range(1, largest + 1):
        row[magnitude] = _guess(row, magnitude) + int(missed[magnitude - 1])
        if not 1 <= row[magnitude] <= TOTAL:
            return None
    row[0] = TOTAL - 2 * int(row[1:].sum())
    return row if row[0] >= 2 else None


def plain(counts: I64) -> U16:
    """Frequencies [contexts, symbols] of counts, 4096 a context; a symbol that was seen gets 1 or more."""
    result = np.zeros(counts.shape, np.int64)
    for context, row in enumerate(counts):
        total = max(1, int(row.sum()))
        result[context] = np.where(row > 0, np.maximum(1, row * TOTAL // total), 0)
        while (over := int(result[context].sum()) - TOTAL) > 0:
            result[context, int(result[context].argmax())] -= max(1, over // 2)
        result[context, int(result[context].argmax())] -= over
    return result.astype(np.uint16)


def write_plain(frequencies: U16) -> bytes:
    """Frequencies [contexts, symbols] as bytes; the last context's numbers foretell the next one's."""
    rows = frequencies.astype(np.int64)
    before = np.vstack([np.zeros((1, rows.shape[1]), np.int64), rows[:-1]])
    return write_numbers(zigzag(rows - before).reshape(-1), ORDER)


def read_plain(data: bytes, contexts: int, symbols: int) -> U16 | None:
    """Frequencies [contexts, symbols]; None for bytes that are no tables."""
    numbers = read_numbers(data, contexts * symbols, ORDER)
    if numbers is None:
        return None
    rows = np.cumsum(unzigzag(numbers).reshape(contexts, symbols), axis=0)
    if (rows < 0).any() or (rows > TOTAL).any() or (rows.sum(1) != TOTAL).any():
        return None
    return rows.astype(np.uint16)
