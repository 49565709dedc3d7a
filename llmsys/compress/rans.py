"""Range asymmetric numeral systems in 32 interleaved lanes: symbols to 16-bit words and back (Duda, arXiv 1311.2540).

Values lie in lines of `width`; lane l codes lines l, l + lanes, …, each from left to right, so that a GPU's warp and a
CPU's loop walk the same words. Frequencies sum to 4096, a state has 32 bits and is refilled by 16. A value's context is
the class of its line plus the class of its column, clipped, times the number of quantisers, plus the quantiser that the
trellis stands in. Knows nothing of what symbols mean. The twins in numpy are the definition.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmsys.gpu.compiled import compiled

__all__ = ["LANES", "TOTAL", "Grid", "decode", "decode_reference", "encode", "encode_reference", "slot_tables"]

LANES = 32
TOTAL_BITS = 12
TOTAL = 1 << TOTAL_BITS
LOWEST = 1 << 16

U8 = NDArray[np.uint8]
U16 = NDArray[np.uint16]
U32 = NDArray[np.uint32]
I16 = NDArray[np.int16]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Grid:
    """How values lie: `values` of them in lines of `width`, and the classes of lines and columns, int16.

    A context is clip(line + column, 0, classes − 1) · quantisers + quantiser.
    """

    values: int
    width: int
    line_class: I16
    column_class: I16
    classes: int

    @property
    def lanes(self) -> int:
        """Lanes in use: one per line, at most LANES."""
        return max(1, min(LANES, -(-self.values // self.width)))


def slot_tables(frequencies: U16) -> U32:
    """What decoding looks up: frequencies [contexts, symbols] to packed slots [contexts, 4096].

    A slot holds the symbol in its low 8 bits, its frequency − 1 in the next 12, the offset into it in the top 12.
    Raises ValueError where a context's frequencies do not sum to 4096 or there are over 256 symbols.
    """
    wide = frequencies.astype(np.int64)
    if wide.shape[1] > 256 or (wide.sum(1) != TOTAL).any():
        raise ValueError(
            f"frequencies {wide.shape} that sum to {wide.sum(1)}; expected {TOTAL}, of at most 256 symbols"
        )
    tables = np.empty((len(wide), TOTAL), np.uint32)
    _fill(frequencies, tables)
    return tables


@compiled
def _fill(frequencies: U16, tables: U32) -> None:
    for context in range(len(frequencies)):
        at = 0
        for symbol in range(frequencies.shape[1]):
            frequency = np.int64(frequencies[context, symbol])
            for offset in range(frequency):
                tables[context, at] = symbol | ((frequency - 1) << 8) | (offset << 20)
                at += 1


def encode(symbols: U8, contexts: I16, grid: Grid, frequencies: U16) -> U16:
    """Words [m] of symbols [values], each under the table of its context; the lanes' states come first."""
    starts = _starts(frequencies)
    out = np.empty(grid.values + 2 * grid.lanes, np.uint16)
    at = _encode(symbols, contexts, grid.width, grid.lanes, frequencies, starts, out)
    return out[at:]


def decode(words: U16, grid: Grid, tables: U32, transitions: U8, quantisers: U8, *, middle: int) -> I16 | None:
    """Levels [values] of words, walking `transitions` [states, 2] by a symbol's parity; None for a damaged stream.

    With k = symbol − middle, the level is k under one quantiser, 2k − sgn(k)·q under two, q = quantisers [state].
    Never reads past its arguments.
    """
    count = 1 + int(quantisers.max())
    if len(tables) < grid.classes * count or len(words) < 2 * grid.lanes:
        return None
    levels = np.empty(grid.values, np.int16)
    place = (grid.width, grid.lanes, grid.line_class, grid.column_class, grid.classes - 1)
    good = _decode(words, *place, count, tables, transitions, quantisers, middle, levels)
    return levels if good else None


def _starts(frequencies: U16) -> U16:
    sums = np.cumsum(frequencies, axis=1, dtype=np.int64)
    return (sums - frequencies).astype(np.uint16)


@compiled
def _encode(  # noqa: PLR0917
    symbols: U8, contexts: I16, width: int, lanes: int, frequencies: U16, starts: U16, out: U16
) -> int:
    values = len(symbols)
    lines = (values + width - 1) // width
    rounds = (lines + lanes - 1) // lanes
    state = np.full(lanes, LOWEST, np.uint64)
    at = len(out)
    for group in range(rounds - 1, -1, -1):
        for column in range(width - 1, -1, -1):
            for lane in range(lanes - 1, -1, -1):
                i = (group * lanes + lane) * width + column
                if i >= values:
                    continue
                context, symbol = contexts[i], symbols[i]
                frequency = np.uint64(frequencies[context, symbol])
                x = state[lane]
                if x >= frequency << np.uint64(20):
                    at -= 1
                    out[at] = np.uint16(x & np.uint64(0xFFFF))
                    x >>= np.uint64(16)
                part = x // frequency
                state[lane] = (part << np.uint64(TOTAL_BITS)) + (x - part * frequency) + starts[context, symbol]
    for lane in range(lanes - 1, -1, -1):
        at -= 2
        out[at] = np.uint16(state[lane] >> np.uint64(16))
        out[at + 1] = np.uint16(state[lane] & np.uint64(0xFFFF))
    return at


@compiled
def _decode(  # noqa: PLR0917
    words: U16, width: int, lanes: int, line_class: I16, column_class: I16, last: int, count: int,
    tables: U32, transitions: U8, quantisers: U8, middle: int, levels: I16,
) -> bool:  # fmt: skip
    values = len(levels)
    lines = (values + width - 1) // width
    state = np.empty(lanes, np.uint32)
    walk = np.zeros(lanes, np.uint8)
    for lane in range(lanes):
        state[lane] = (np.uint32(words[2 * lane]) << np.uint32(16)) | words[2 * lane + 1]
    at, end = 2 * lanes, len(words)
    for first in range(0, lines, lanes):
        for column in range(width):
            shift = column_class[column]
            for lane in range(min(lanes, lines - first)):
                i = (first + lane) * width + column
                if i >= values:
                    break
                level = min(max(line_class[first + lane] + shift, 0), last)
                x = state[lane]
                q = np.int64(quantisers[walk[lane]])
                slot = tables[level * count + q, x & np.uint32(TOTAL - 1)]
                symbol = slot & np.uint32(0xFF)
                x = (((slot >> np.uint32(8)) & np.uint32(0xFFF)) + np.uint32(1)) * (x >> np.uint32(TOTAL_BITS)) + (
                    slot >> np.uint32(20)
                )
                if x < LOWEST:
                    if at >= end:
                        return False
                    x = (x << np.uint32(16)) | words[at]
                    at += 1
                state[lane] = x
                k = np.int64(symbol) - middle
                levels[i] = count * k - (q if k > 0 else -q if k < 0 else 0)
                walk[lane] = transitions[walk[lane], symbol & np.uint32(1)]
    for lane in range(lanes):
        if state[lane] != LOWEST:
            return False
    return at == end


def encode_reference(symbols: U8, contexts: I16, grid: Grid, frequencies: U16) -> U16:
    """What `encode` gives, by Python's whole numbers: one value after another, in the reverse order of decoding."""
    starts = _starts(frequencies)
    state = [LOWEST] * grid.lanes
    out: list[int] = []
    for i, lane in reversed(_walk(grid)):
        frequency = int(frequencies[contexts[i], symbols[i]])
        if state[lane] >= frequency << 20:
            out.append(state[lane] & 0xFFFF)
            state[lane] >>= 16
        part, rest = divmod(state[lane], frequency)
        state[lane] = part * TOTAL + rest + int(starts[contexts[i], symbols[i]])
    heads = [half for x in state for half in (x >> 16, x & 0xFFFF)]
    return np.array(heads + out[::-1], np.uint16)


def decode_reference(words: U16, grid: Grid, frequencies: U16, transitions: U8, quantisers: U8) -> U8:
    """What `decode` gives for a sound stream, by searching the cumulative frequencies."""
    ends = np.cumsum(frequencies, axis=1, dtype=np.int64)
    count = 1 + int(quantisers.max())
    rest = [int(word) for word in words]
    state = [(rest[2 * lane] << 16) | rest[2 * lane + 1] for lane in range(grid.lanes)]
    at, walk = 2 * grid.lanes, [0] * grid.lanes
    symbols = np.zeros(grid.values, np.uint8)
    for i, lane in _walk(grid):
        level = int(grid.line_class[i // grid.width]) + int(grid.column_class[i % grid.width])
        context = min(max(level, 0), grid.classes - 1) * count + int(quantisers[walk[lane]])
        slot = state[lane] % TOTAL
        symbol = int(np.searchsorted(ends[context], slot, side="right"))
        frequency = int(frequencies[context, symbol])
        state[lane] = frequency * (state[lane] // TOTAL) + slot - (int(ends[context, symbol]) - frequency)
        if state[lane] < LOWEST:
            state[lane] = (state[lane] << 16) | rest[at]
            at += 1
        symbols[i] = symbol
        walk[lane] = int(transitions[walk[lane], symbol & 1])
    return symbols


def _walk(grid: Grid) -> list[tuple[int, int]]:
    """(value, lane) in the order of decoding."""
    lines = -(-grid.values // grid.width)
    places = (
        ((first + lane) * grid.width + column, lane)
        for first in range(0, lines, grid.lanes)
        for column in range(grid.width)
        for lane in range(min(grid.lanes, lines - first))
    )
    return [place for place in places if place[0] < grid.values]
