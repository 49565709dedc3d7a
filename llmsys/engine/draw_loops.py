"""One token from each row of logits by inverse CDF, and the likeliest tokens, as compiled loops over single rows.

The maxima of blocks of 64 logits are found first: k blocks reach at least as high as the k-th largest of them, so all
but a few blocks are passed over when the largest k are wanted. The nucleus (top-p) is cut by a histogram of weights by
logit, and only the bin where the mass is reached is sorted. What is kept is exact: every logit not below the k-th
largest, then every one not below the last that the nucleus needs, then every weight not below min_p of the largest;
equals stay together. Order of the CDF is the vocabulary's. Knows nothing of requests; logits hold no NaN and no +inf.
"""

import math
from typing import Any

import numpy as np
from numba import carray

from llmsys.engine.loops import exp_float32
from llmsys.engine.team import TeamLoop, compiled, pointer, team_size, thread_number

__all__ = ["SETTINGS", "draw_loop", "rank_loop"]

Array = np.ndarray[Any, np.dtype[Any]]
Number = Any
"""A float32: the compiler knows, mypy does not."""
BLOCK, BINS = 64, 1024
LOWEST, ZERO, ONE = np.float32(-np.inf), np.float32(0.0), np.float32(1.0)
REACH = (np.float32(9.0), np.float32(87.0))
"""How far below the largest scaled logit the nucleus is looked for: where models end it, then as far as weights go."""
SETTINGS = ("temperature", "top_k", "top_p", "min_p", "point")
"""Columns of the loop's settings, float64."""
RECORD = np.dtype([(name, "i8") for name in ("vocab", "rows", "logits", "whose", "settings", "tokens")])
RANK_RECORD = np.dtype([(name, "i8") for name in ("vocab", "rows", "most", "logits", "found", "values", "sums")])


@compiled
def _maxima(row: Array, maxima: Array) -> Number:
    """The largest logit of every block, and of the row."""
    top = LOWEST
    for block in range(maxima.shape[0]):
        own = LOWEST
        for i in range(block * BLOCK, min((block + 1) * BLOCK, row.shape[0])):
            own = row[i] if row[i] > own else own
        maxima[block] = own
        top = own if own > top else top
    return top


@compiled
def _gather(row: Array, maxima: Array, bound: Number, room: Array) -> int:
    """Copy all logits that are not below the bound; return how many."""
    count = 0
    for block in range(maxima.shape[0]):
        if maxima[block] >= bound:
            for i in range(block * BLOCK, min((block + 1) * BLOCK, row.shape[0])):
                if row[i] >= bound:
                    room[count] = row[i]
                    count += 1
    return count


@compiled
def _kth_largest(row: Array, maxima: Array, k: int, room: Array) -> Number:
    if k >= row.shape[0]:
        return LOWEST
    blocks = maxima.shape[0]
    least = np.partition(maxima, blocks - k)[blocks - k] if k <= blocks else LOWEST
    count = _gather(row, maxima, least, room)
    return np.partition(room[:count], count - k)[count - k]


@compiled
def _weigh(  # noqa: PLR0917
    row: Array, maxima: Array, top: Number, inverse: Number, bound: Number, weights: Array, sums: Array
) -> float:
    """Weights exp((logit - top) / T), 0 below the bound, and their sums by block; return the sum of all."""
    total = 0.0
    for block in range(maxima.shape[0]):
        own, here = ZERO, slice(block * BLOCK, min((block + 1) * BLOCK, row.shape[0]))
        logits, found = row[here], weights[here]
        if maxima[block] >= bound:
            for i in range(logits.shape[0]):
                weight = _weight(logits[i], top, inverse, bound)
                found[i] = weight
                own += weight
        else:
            found[:] = ZERO
        sums[block] = own
        total += float(own)
    return total


@compiled
def _weight(logit: Number, top: Number, inverse: Number, bound: Number) -> Number:
    scaled = (logit - top) * inverse
    weight = exp_float32(scaled)
    return weight if logit >= bound and scaled > -REACH[1] else ZERO


@compiled
def _keep(row: Array, maxima: Array, bound: Number, least: Number, weights: Array, sums: Array) -> float:
    """Set weights to 0 whose logit is below the bound or which are less than `least`, and sum anew."""
    total = 0.0
    for block in range(maxima.shape[0]):
        own, here = ZERO, slice(block * BLOCK, min((block + 1) * BLOCK, row.shape[0]))
        logits, found = row[here], weights[here]
        if maxima[block] >= bound:
            for i in range(logits.shape[0]):
                weight = found[i] if logits[i] >= bound and found[i] >= least else ZERO
                found[i] = weight
                own += weight
        sums[block] = own
        total += float(own)
    return total


@compiled
def _nucleus(  # noqa: PLR0917
    row: Array, maxima: Array, top: Number, inverse: Number, bound: Number, weights: Array, needed: float
) -> Number:
    """The last logit, in falling order from `bound` up, before which less than `needed` of the weight lies."""
    masses, bins = np.empty(BINS), np.empty(row.shape[0], np.int32)
    for reach in REACH:
        low = max(bound, top - reach / inverse)
        lowest = top
        for block in range(maxima.shape[0]):
            if maxima[block] >= low:
                for i in range(block * BLOCK, min((block + 1) * BLOCK, row.shape[0])):
                    lowest = row[i] if low <= row[i] < lowest else lowest
        scale = np.float32(BINS - 1) / max(top - lowest, np.float32(1e-30))
        masses[:] = 0.0
        for block in range(maxima.shape[0]):
            if maxima[block] >= low:
                for i in range(block * BLOCK, min((block + 1) * BLOCK, row.shape[0])):
                    if row[i] >= low:
                        bins[i] = min(int((top - row[i]) * scale), BINS - 1)
                        masses[bins[i]] += weights[i]
        before, chosen = 0.0, 0
        while chosen < BINS and before + masses[chosen] < needed:
            before += masses[chosen]
            chosen += 1
        if chosen < BINS:
            return _last_needed(row, maxima, low, weights, needed - before, bins, chosen)
    return bound


@compiled
def _last_needed(  # noqa: PLR0917
    row: Array, maxima: Array, low: Number, weights: Array, needed: float, bins: Array, chosen: int
) -> Number:
    """The logit of one bin, in falling order, with which the weight that is still needed is reached."""
    count, places = 0, np.empty(row.shape[0], np.int64)
    for block in range(maxima.shape[0]):
        if maxima[block] >= low:
            for i in range(block * BLOCK, min((block + 1) * BLOCK, row.shape[0])):
                if row[i] >= low and bins[i] == chosen:
                    places[count] = i
                    count += 1
    members = places[:count]
    falling = members[np.argsort(-row[members])]
    mass = 0.0
    for i in falling:
        mass += weights[i]
        if mass >= needed:
            return row[i]
    return row[falling[-1]]


@compiled
def _draw(row: Array, settings: Array, maxima: Array, sums: Array, room: Array) -> int:
    """The token whose share of the CDF the point falls in; settings as SETTINGS, room [vocab] to work in."""
    vocab, inverse = row.shape[0], np.float32(1.0 / settings[0])
    top, bound, least = _maxima(row, maxima), LOWEST, np.float32(settings[3])
    if 0 < settings[1] < vocab:
        bound = _kth_largest(row, maxima, int(settings[1]), room)
    total = _weigh(row, maxima, top, inverse, bound, room, sums)
    if settings[2] < 1:
        bound = _nucleus(row, maxima, top, inverse, bound, room, settings[2] * total)
    if settings[2] < 1 or least > 0:
        total = _keep(row, maxima, bound, least, room, sums)
    target = settings[4] * total
    block, found, before = 0, 0, 0.0
    for candidate in range(sums.shape[0]):
        if sums[candidate] > 0:
            block = candidate
            if before + sums[candidate] > target:
                break
            before += sums[candidate]
    before = min(before, target)
    for i in range(block * BLOCK, min((block + 1) * BLOCK, vocab)):
        if room[i] > 0:
            found = i
            before += room[i]
            if before > target:
                break
    return found


@compiled
def _rank(row: Array, most: int, maxima: Array, room: Array, found: Array, values: Array) -> float:
    """The `most` largest logits in falling order, equals by token; return the logarithm of the sum of all exp."""
    top = _maxima(row, maxima)
    total = 0.0
    for block in range(maxima.shape[0]):
        own = ZERO
        for i in range(block * BLOCK, min((block + 1) * BLOCK, row.shape[0])):
            own += _weight(row[i], top, ONE, LOWEST)
        total += float(own)
    if most:
        bound, count = _kth_largest(row, maxima, most, room), 0
        for block in range(maxima.shape[0]):
            if maxima[block] >= bound:
                for i in range(block * BLOCK, min((block + 1) * BLOCK, row.shape[0])):
                    if row[i] >= bound and (count < most or row[i] > values[most - 1]):
                        place = min(count, most - 1)
                        while place > 0 and values[place - 1] < row[i]:
                            values[place], found[place] = values[place - 1], found[place - 1]
                            place -= 1
                        values[place], found[place] = row[i], i
                        count += 1
    return float(top) + math.log(total)


def draw_loop() -> TeamLoop:
    """Draw a token for each of some rows; takes RECORD's fields.

    In memory: logits [n, vocab] float32, whose [rows] int64 (numbers of rows) and settings [rows, 5] float64; tokens
    [rows] int64 is the answer.
    """

    def draw(given: Any) -> None:  # noqa: ANN401
        g = carray(given, 1)[0]
        whose = carray(pointer(g.whose, np.int64), (g.rows,))
        settings = carray(pointer(g.settings, np.float64), (g.rows, 5))
        tokens = carray(pointer(g.tokens, np.int64), (g.rows,))
        logits = carray(pointer(g.logits, np.float32), (1 << 40, g.vocab))
        blocks = (g.vocab + BLOCK - 1) // BLOCK
        maxima, sums, room = np.empty(blocks, np.float32), np.empty(blocks, np.float32), np.empty(g.vocab, np.float32)
        for i in range(thread_number(), g.rows, team_size()):
            tokens[i] = _draw(logits[whose[i]], settings[i], maxima, sums, room)

    return TeamLoop(draw, RECORD)


def rank_loop() -> TeamLoop:
    """The likeliest tokens of some rows; takes RANK_RECORD's fields.

    In memory: logits [rows, vocab] float32; the answer is found [rows, most] int64 and values [rows, most] float32,
    tokens and logits, and sums [rows] float64, the logarithms of the sums of exp.
    """

    def rank(given: Any) -> None:  # noqa: ANN401
        g = carray(given, 1)[0]
        found = carray(pointer(g.found, np.int64), (g.rows, g.most))
        values = carray(pointer(g.values, np.float32), (g.rows, g.most))
        sums = carray(pointer(g.sums, np.float64), (g.rows,))
        logits = carray(pointer(g.logits, np.float32), (g.rows, g.vocab))
        maxima, room = np.empty((g.vocab + BLOCK - 1) // BLOCK, np.float32), np.empty(g.vocab, np.float32)
        for i in range(thread_number(), g.rows, team_size()):
            sums[i] = _rank(logits[i], g.most, maxima, room, found[i], values[i])

    return TeamLoop(rank, RANK_RECORD)
