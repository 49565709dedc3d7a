"""The small operations of a decoder's block as compiled loops over float32 or bfloat16 memory.

bfloat16 stands in memory as uint16, the upper half of a float32. Each loop does one thread's share of the work, told by
its number in the team. Rounding is transformers': the result of an operation is rounded to the activations' format
before the next one reads it; attention alone stays in float32 from rotation to mixture. Knows nothing of tensors.
"""

import math
from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from llmsys.engine.team import compiled

__all__ = ["as_stored", "attend_rows", "exp_float32", "rms_norm", "silu_mul", "widened"]

Array = np.ndarray[Any, np.dtype[Any]]

LOG2_E = np.float32(1.4426950408889634)
LN2_HIGH, LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
LOWEST, HIGHEST = np.float32(-87.0), np.float32(88.0)
ZERO, HALF, ONE = np.float32(0.0), np.float32(0.5), np.float32(1.0)
UPPER = np.uint32(16)
BELOW_HALF = np.uint32(0x7FFF)
EXPONENT_BIAS, MANTISSA_BITS = np.int32(127), np.int32(23)


def widened(stored: Any) -> Any:  # noqa: ANN401
    """An element of memory as float32."""
    return np.uint32(int(stored) << 16).view(np.float32) if isinstance(stored, np.uint16) else stored


def _widened_compiled(stored: Any) -> Any:  # noqa: ANN401
    def shifted(stored: Any) -> Any:  # noqa: ANN401
        return np.uint32(np.uint32(stored) << UPPER).view(np.float32)

    def same(stored: Any) -> Any:  # noqa: ANN401
        return stored

    return shifted if stored == types.uint16 else same


overload(widened)(_widened_compiled)


@compiled
def _rounded_bits(value: Any) -> Any:  # noqa: ANN401
    bits = np.float32(value).view(np.uint32)
    return np.uint16(np.uint32(bits + BELOW_HALF + (np.uint32(bits >> UPPER) & np.uint32(1))) >> UPPER)


def as_stored(value: Any, like: Any) -> Any:  # noqa: ANN401
    """float32 as an element of the kind of `like`: rounded to nearest, ties to even, where that is bfloat16."""
    return _rounded_bits(value) if isinstance(like, np.uint16) else value


def _as_stored_compiled(value: Any, like: Any) -> Any:  # noqa: ANN401
    def rounded(value: Any, like: Any) -> Any:  # noqa: ANN401
        return _rounded_bits(value)

    def same(value: Any, like: Any) -> Any:  # noqa: ANN401
        return np.float32(value)

    return rounded if like == types.uint16 else same


overload(as_stored)(_as_stored_compiled)


@compiled
def exp_float32(x: Any) -> Any:  # noqa: ANN401
    """e^x in float32 within 2 units in the last place, free of branches so that loops over it vectorise.

    Cody and Waite's reduction by multiples of ln 2, then the polynomial of the Cephes library. NaN stays NaN.
    """
    bounded = min(max(x, LOWEST), HIGHEST)
    power = np.floor(bounded * LOG2_E + HALF)
    r = bounded - power * LN2_HIGH - power * LN2_LOW
    series = np.float32(1.9875691500e-4)
    series = series * r + np.float32(1.3981999507e-3)
    series = series * r + np.float32(8.3334519073e-3)
    series = series * r + np.float32(4.1665795894e-2)
    series = series * r + np.float32(1.6666665459e-1)
    series = series * r + np.float32(5.0000001201e-1)
    scale = np.int32((np.int32(power) + EXPONENT_BIAS) << MANTISSA_BITS).view(np.float32)
    result = (series * r * r + r + ONE) * scale
    return result if x == x else x  # noqa: PLR0124


@compiled
def rms_norm(x: Array, weight: Array, eps: float, out: Array, thread: int, threads: int) -> None:
    """Divide rows by their root mean square and scale: x and out [rows, width], weight [width]."""
    rows, width = x.shape
    for row in range(rows * thread // threads, rows * (thread + 1) // threads):
        total = ZERO
        for i in range(width):
            value = widened(x[row, i])
            total += value * value
        factor = np.float32(ONE / np.sqrt(np.float32(total / np.float32(width)) + np.float32(eps)))
        for i in range(width):
            normed = widened(as_stored(widened(x[row, i]) * factor, x[row, i]))
            out[row, i] = as_stored(normed * widened(weight[i]), x[row, i])


@compiled
def silu_mul(gate_up: Array, out: Array, thread: int, threads: int) -> None:
    """The gated activation silu(gate) * up: gate_up [rows, 2 * width], gate first; out [rows, width]."""
    rows, width = out.shape
    for row in range(rows * thread // threads, rows * (thread + 1) // threads):
        for i in range(width):
            gate = widened(gate_up[row, i])
            silu = widened(as_stored(gate / (ONE + exp_float32(-gate)), gate_up[row, i]))
            out[row, i] = as_stored(silu * widened(gate_up[row, width + i]), gate_up[row, i])


@compiled
def _rotate(x: Array, cos: Array, sin: Array, scale: Any, out: Array) -> None:  # noqa: ANN401
    """Rotate one head [head_dim] by the half-split scheme, times `scale`, into float32; sin carries the signs."""
    half = x.shape[0] // 2
    for i in range(half):
        low, high = widened(x[i]), widened(x[half + i])
        out[i] = (low * widened(cos[i]) + high * widened(sin[i])) * scale
        out[half + i] = (high * widened(cos[half + i]) + low * widened(sin[half + i])) * scale


@compiled
def _scores(queries: Array, keys: Array, length: int, head_dim: int, key: Array, scores: Array) -> None:
    """Scores of each query [group, head_dim] with the first `length` keys; `key` is one key's room."""
    for t in range(length):
        for e in range(head_dim):
            key[e] = widened(keys[t, e])
        for j in range(queries.shape[0]):
            total = ZERO
            for e in range(head_dim):
                total += queries[j, e] * key[e]
            scores[j, t] = total


@compiled
def _softmax(scores: Array, length: int) -> Any:  # noqa: ANN401
    """Turn scores into weights relative to the largest; return one over their sum."""
    top = scores[0]
    for t in range(1, length):
        top = max(top, scores[t])
    total = ZERO
    for t in range(length):
        weight = exp_float32(scores[t] - top)
        scores[t] = weight
        total += weight
    return ONE / total


@compiled
def _mix(weights: Array, values: Array, length: int, head_dim: int, value: Array, mixed: Array) -> None:
    """Sums of the first `length` values by weight, for each query: mixed [group, head_dim]."""
    mixed[:, :head_dim] = ZERO
    for t in range(length):
        for e in range(head_dim):
            value[e] = widened(values[t, e])
        for j in range(mixed.shape[0]):
            weight = weights[j, t]
            for e in range(head_dim):
                mixed[j, e] += weight * value[e]


@compiled
def attend_rows(  # noqa: PLR0917 (arrays, not settings: what the team's entry has)
    qk: Array,
    v: Array,
    cos: Array,
    sin: Array,
    keys: Array,
    values: Array,
    tokens: Array,
    rows: Array,
    lengths: Array,
    out: Array,
    thread: int,
    threads: int,
) -> None:
    """One new token per decoding row: rotate, write its key and value, attend to all of the row's tokens.

    Token `tokens[i]` of the batch continues row `rows[i]`, which has `lengths[i]` tokens with it. Shapes: qk
    [T, >= (heads + kv_heads) * D] unrotated, v [T, >= kv_heads * D], cos and sin [positions, D], keys and values
    [rows, kv_heads, max_len, D], out [T, heads * D]. Threads share (row, key head) pairs by the tokens they read.
    """
    kv_heads, head_dim = keys.shape[1], keys.shape[3]
    heads = out.shape[1] // head_dim
    group = heads // kv_heads
    queries, mixed = np.empty((group, head_dim), np.float32), np.empty((group, head_dim), np.float32)
    scores = np.empty((group, lengths.max()), np.float32)
    room = np.empty(head_dim, np.float32)
    scale = np.float32(1.0 / math.sqrt(head_dim))
    work = lengths.sum() * kv_heads
    first, last = work * thread // threads, work * (thread + 1) // threads
    before = 0
    for i in range(rows.shape[0]):
        length = lengths[i]
        for head in range(kv_heads):
            middle = before + length // 2
            before += length
            if not first <= middle < last:
                continue
            token, row, place = tokens[i], rows[i], length - 1
            own_keys, own_values = keys[row, head], values[row, head]
            at = (heads + head) * head_dim
            _rotate(qk[token, at : at + head_dim], cos[place], sin[place], ONE, room)
            for e in range(head_dim):
                own_keys[place, e] = as_stored(room[e], own_keys[place, e])
                own_values[place, e] = v[token, head * head_dim + e]
            for j in range(group):
                at = (head * group + j) * head_dim
                _rotate(qk[token, at : at + head_dim], cos[place], sin[place], scale, queries[j])
            _scores(queries, own_keys, length, head_dim, room, scores)
            for j in range(group):
                share = _softmax(scores[j], length)
                for t in range(length):
                    scores[j, t] *= share
            _mix(scores, own_values, length, head_dim, room, mixed)
            for j in range(group):
                for e in range(head_dim):
                    out[token, (head * group + j) * head_dim + e] = as_stored(mixed[j, e], out[token, 0])
