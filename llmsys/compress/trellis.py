"""Dependent quantisation: a trellis of 4 or 8 states picks for each value one of two quantisers (VVC, 8.7.3; NNC).

Q0 holds the even multiples of the step, Q1 the odd ones and zero; symbol k of quantiser q is the level 2k − sgn(k)·q.
The parity of k drives the state, and the state picks the next quantiser, so that the decoder walks a table. The encoder
is Viterbi's algorithm over squared error + λ · bits. With one state (`SCALAR`) the same code is a plain uniform
quantiser, level k, whose rounding weighs the rate. Lines, lanes and classes are those of `rans`. Knows no bitstream.
The 8-state machine is Ungerboeck's code in the form of JPEG 2000 Part 2.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmsys.compress.rans import Grid
from llmsys.gpu.compiled import compiled

__all__ = ["EIGHT", "ESCAPE", "FOUR", "MACHINES", "SCALAR", "Machine", "Quantised", "quantise", "quantise_reference"]

ESCAPE = 31
"""Magnitudes from here on are escapes: of odd magnitude symbol 31, of even symbol 32, the rest in a side string."""

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
I16 = NDArray[np.int16]
U8 = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Machine:
    """States, where a symbol's parity leads from each, which quantiser each uses; `spacing` of a symbol in steps."""

    states: int
    transitions: U8
    quantisers: U8
    spacing: int

    @property
    def sources(self) -> NDArray[np.int64]:
        """The two ways into each state, [states, 2], as 2 · state + parity."""
        ways: list[list[int]] = [[] for _ in range(self.states)]
        for state, targets in enumerate(self.transitions.tolist()):
            for parity, to in enumerate(targets):
                ways[to].append(2 * state + parity)
        return np.array(ways, np.int64)

    @property
    def count(self) -> int:
        """Quantisers in use: 1 or 2."""
        return 1 + int(self.quantisers.max())


def _machine(transitions: list[tuple[int, int]], quantisers: list[int]) -> Machine:
    table = np.array(transitions, np.uint8)
    return Machine(len(table), table, np.array(quantisers, np.uint8), 2 if max(quantisers) else 1)


SCALAR = _machine([(0, 0)], [0])
FOUR = _machine([(0, 2), (2, 0), (1, 3), (3, 1)], [0, 0, 1, 1])
EIGHT = _machine([(0, 1), (3, 2), (5, 4), (6, 7), (1, 0), (2, 3), (4, 5), (7, 6)], [0, 1, 0, 1, 0, 1, 0, 1])
MACHINES = {0: SCALAR, 4: FOUR, 8: EIGHT}


@dataclass(frozen=True, slots=True)
class Quantised:
    """Symbols k [values], the context of each, and the squared error in steps² over all."""

    symbols: I32
    contexts: I16
    distortion: float


def quantise(scaled: F32, grid: Grid, bits: F64, machine: Machine, rate_weight: float) -> Quantised:
    """Quantise values [values] given in steps; bits [contexts, 33] is what a magnitude costs, its sign included.

    Minimises squared error + rate_weight · bits exactly, per lane. Raises ValueError where `bits` does not fit.
    """
    if len(bits) < grid.classes * machine.count:
        raise ValueError(f"bits for {len(bits)} contexts; expected {grid.classes} x {machine.count}")
    weighted = np.asarray(rate_weight * bits, np.float32)
    symbols = np.empty(grid.values, np.int32)
    contexts = np.empty(grid.values, np.int16)
    place = (grid.width, grid.lanes, grid.line_class, grid.column_class, grid.classes - 1)
    if machine.states == 1:
        error = _scalar(scaled, *place, weighted, rate_weight, symbols, contexts)
    else:
        walk = (machine.sources, machine.quantisers.astype(np.int64))
        error = _viterbi(scaled, *place, weighted, rate_weight, *walk, symbols, contexts)
    return Quantised(symbols, contexts, error)


@compiled
def _cost(magnitude: int, gap: float, row: F32, rate_weight: float) -> float:
    if magnitude < 31:
        return gap * gap + float(row[magnitude])
    rest = (magnitude - 31) >> 1
    prefix = 0
    while (rest + 1) >> (prefix + 1):
        prefix += 1
    return gap * gap + float(row[31 + ((magnitude - 31) & 1)]) + rate_weight * (2 * prefix + 1)


@compiled
def _best(size: float, start: int, q: int, row: F32, rate_weight: float) -> tuple[float, int]:
    """The cheapest of the levels start, start + 4, … for a value of size >= 0: its cost and its symbol's magnitude."""
    m = 0
    if size > start:
        m = int((size - start) * 0.25 + 0.5)
    level = start + 4 * m
    best = (level + q) >> 1
    cost = _cost(best, size - level, row, rate_weight)
    if m > 0:
        lower = _cost(best - 2, size - level + 4, row, rate_weight)
        if lower < cost:
            cost, best = lower, best - 2
    return cost, best


@compiled
def _options(size: float, rows: F32, context: int, rate_weight: float, cost: F32, pick: I32) -> None:
    """The cheapest symbol of each quantiser and parity: cost [2, 2] and magnitude [2, 2] for a value of size >= 0."""
    cost[0, 0], pick[0, 0] = _best(size, 0, 0, rows[context], rate_weight)
    cost[0, 1], pick[0, 1] = _best(size, 2, 0, rows[context], rate_weight)
    cost[1, 1], pick[1, 1] = _best(size, 1, 1, rows[context + 1], rate_weight)
    cost[1, 0], pick[1, 0] = _best(size, 3, 1, rows[context + 1], rate_weight)
    zero = size * size + rows[context + 1, 0]
    if zero < cost[1, 0]:
        cost[1, 0], pick[1, 0] = zero, 0


@compiled
def _viterbi(  # noqa: PLR0917
    scaled: F32, width: int, lanes: int, line_class: I16, column_class: I16, last: int, rows: F32, rate_weight: float,
    sources: NDArray[np.int64], quantisers: NDArray[np.int64], symbols: I32, contexts: I16,
) -> float:  # fmt: skip
    values, states = len(scaled), len(quantisers)
    lines = (values + width - 1) // width
    longest = ((lines + lanes - 1) // lanes) * width
    came = np.empty((longest, states), np.int16)
    picks = np.empty((longest, 2, 2), np.int32)
    cost, pick = np.empty((2, 2), np.float32), np.empty((2, 2), np.int32)
    path, ahead, totals = np.empty(states), np.empty(states), np.empty(2 * states)
    error = 0.0
    for lane in range(lanes):
        path[:] = np.inf
        path[0] = 0.0
        steps = 0
        for line in range(lane, lines, lanes):
            for column in range(min(width, values - line * width)):
                context = 2 * min(max(line_class[line] + column_class[column], 0), last)
                _options(abs(scaled[line * width + column]), rows, context, rate_weight, cost, pick)
                picks[steps] = pick
                for way in range(2 * states):
                    totals[way] = path[way >> 1] + cost[quantisers[way >> 1], way & 1]
                for to in range(states):
                    one, other = totals[sources[to, 0]], totals[sources[to, 1]]
                    ahead[to] = min(one, other)
                    came[steps, to] = sources[to, 0] if one <= other else sources[to, 1]
                path, ahead = ahead, path
                steps += 1
        state = int(np.argmin(path))
        for line in range(lines - 1 - (lines - 1 - lane) % lanes, -1, -lanes):
            for column in range(min(width, values - line * width) - 1, -1, -1):
                steps -= 1
                i = line * width + column
                parity = int(came[steps, state]) & 1
                state = int(came[steps, state]) >> 1
                q = quantisers[state]
                k = picks[steps, q, parity]
                contexts[i] = 2 * min(max(line_class[line] + column_class[column], 0), last) + q
                gap = abs(scaled[i]) - (2 * k - (q if k > 0 else 0))
                error += gap * gap
                symbols[i] = k if scaled[i] >= 0 else -k
    return error


@compiled
def _scalar(  # noqa: PLR0917
    scaled: F32, width: int, lanes: int, line_class: I16, column_class: I16, last: int, rows: F32, rate_weight: float,
    symbols: I32, contexts: I16,
) -> float:  # fmt: skip
    error = 0.0
    for i in range(len(scaled)):
        context = min(max(line_class[i // width] + column_class[i % width], 0), last)
        size = abs(scaled[i])
        k = int(size + 0.5)
        if k > 0 and _cost(k - 1, size - (k - 1), rows[context], rate_weight) < _cost(
            k, size - k, rows[context], rate_weight
        ):
            k -= 1
        gap = size - k
        error += gap * gap
        symbols[i] = k if scaled[i] >= 0 else -k
        contexts[i] = context
    return error


def quantise_reference(scaled: F32, grid: Grid, bits: F64, machine: Machine, rate_weight: float) -> float:
    """The least squared error + rate_weight · bits of any path, by float64 over every level within reach.

    Slow and separate from `quantise`: its definition. Raises ValueError for a value that needs an escape.
    """
    total = 0.0
    for lane in range(grid.lanes):
        path = {0: 0.0}
        for line in range(lane, -(-grid.values // grid.width), grid.lanes):
            for i in range(line * grid.width, min((line + 1) * grid.width, grid.values)):
                level = int(grid.line_class[line]) + int(grid.column_class[i - line * grid.width])
                context = min(max(level, 0), grid.classes - 1) * machine.count
                path = _step(path, float(scaled[i]), bits, context, machine, rate_weight)
        total += min(path.values())
    return total


def _step(
    path: dict[int, float], value: float, bits: F64, context: int, machine: Machine, rate_weight: float
) -> dict[int, float]:
    if abs(value) > machine.spacing * (ESCAPE - 2):
        raise ValueError(f"value {value} needs an escape; expected less")
    ahead: dict[int, float] = {}
    for state, before in path.items():
        q = int(machine.quantisers[state])
        for k in range(1 - ESCAPE, ESCAPE):
            level = machine.spacing * k - int(np.sign(k)) * q
            to = int(machine.transitions[state, k & 1])
            total = before + (value - level) ** 2 + rate_weight * float(bits[context + q, abs(k)])
            ahead[to] = min(ahead.get(to, np.inf), total)
    return ahead
