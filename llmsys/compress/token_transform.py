"""The codec `ttq`: rows are tokens, and neighbours are alike, so a DCT runs over every 32 of them before `tq`.

Keys of a KV cache are smooth over tokens once a channel's mean is gone; weights are not. The transform is orthonormal,
so an error of coefficients is that of values; a block's frequencies are lines to `tq`, whose classes give each its
rate. Decoding sums products in float64: equal to float32 rounding on every machine, not to the bit. Knows no heads.
"""

import math
import struct
from functools import cache

import msgspec
import numpy as np
from numpy.typing import NDArray

from llmsys.compress.coded import Coded, Numbers, Target, chunk_map, in_memory, pack
from llmsys.compress.errors import BadBitstream, TargetUnreachable
from llmsys.compress.number_formats import FORMATS, Words, from_words, to_words
from llmsys.compress.records import Chunk, TensorEntry
from llmsys.compress.tensor_codec import decode_tq
from llmsys.compress.tensor_encoder import encode_tq

__all__ = ["TOKENS", "cosines", "decode_tokens", "encode_tokens"]

TOKENS = 32
HEAD = struct.Struct("<I")

F64 = NDArray[np.float64]


@cache
def cosines(count: int) -> F64:
    """The orthonormal DCT-II of `count` tokens, [frequencies, tokens]."""
    at = np.arange(count)
    table = np.cos(math.pi / count * (at[None, :] + 0.5) * at[:, None]) * math.sqrt(2 / count)
    table[0] = math.sqrt(1 / count)
    return np.asarray(table, np.float64)


def encode_tokens(numbers: Numbers, target: Target, *, trellis: int = 8, jobs: int = 1) -> Coded:
    """Code a finite matrix whose rows are tokens to a target of bytes or of error.

    Raises TargetUnreachable with the range of bits.
    """
    layout = numbers.layout
    width = layout.width
    values = numbers.floats(0, layout.values).reshape(-1, width).astype(np.float64)
    means = values.mean(0).astype("<f2")
    means[~np.isfinite(means)] = 0
    coefficients = _turned(values - means.astype(np.float64), back=False).astype(np.float32)
    fixed = HEAD.size + means.nbytes
    if target.stored_bytes is not None:
        if target.stored_bytes <= fixed:
            least = 8 * fixed / layout.values
            message = f"{numbers.name}: the means of {width} channels alone take {least:.3f} bits per value"
            raise TargetUnreachable(message, reachable=(least, 8.0))
        target = Target(stored_bytes=target.stored_bytes - fixed, slack_bytes=target.slack_bytes)
    elif target.nmse is not None:
        # the mean is coded beside, so coefficients vary less than values do
        share = values.var() / max(float(coefficients.astype(np.float64).var()), 1e-300)
        target = Target(nmse=min(1.0, 0.998 * target.nmse * share))
    inner = encode_tq(in_memory(coefficients, numbers.name), target, trellis=trellis, jobs=jobs)
    side = HEAD.pack(means.nbytes) + means.tobytes() + inner.blobs[0]
    coded = pack(numbers, "ttq", side, inner.blobs[1:])
    return Coded(
        msgspec.structs.replace(coded.entry, nmse=_error(numbers, coded, float(values.var()), jobs)), coded.blobs
    )


def decode_tokens(entry: TensorEntry, side: bytes, payload: bytes, chunk: Chunk, where: str) -> Words:
    """Words of a chunk, rounded to the tensor's number format."""
    length = HEAD.unpack_from(side)[0] if len(side) >= HEAD.size else -1
    whole = entry.values % entry.width == 0 and chunk.first_line % TOKENS == 0
    if length != 2 * entry.width or len(side) < HEAD.size + length or not whole:
        raise BadBitstream(where, f"means of {length} bytes", f"{2 * entry.width}, and whole rows")
    means = np.frombuffer(side, "<f2", entry.width, HEAD.size).astype(np.float64)
    inner = msgspec.structs.replace(entry, dtype="f32")
    words = decode_tq(inner, side[HEAD.size + length :], payload, chunk, where)
    lines = from_words(words, FORMATS["f32"]).reshape(-1, entry.width).astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        values = (_turned(lines, back=True) + means).astype(np.float32)
    return to_words(values.reshape(-1), entry.format)


def _turned(lines: F64, *, back: bool) -> F64:
    """Every TOKENS lines, and the fewer at the end, through the transform or back; [lines, width]."""
    whole = len(lines) // TOKENS * TOKENS
    table = cosines(TOKENS).T if back else cosines(TOKENS)
    result = np.empty_like(lines)
    result[:whole] = (table @ lines[:whole].reshape(-1, TOKENS, lines.shape[1])).reshape(whole, lines.shape[1])
    if whole < len(lines):
        table = cosines(len(lines) - whole)
        result[whole:] = (table.T if back else table) @ lines[whole:]
    return result


def _error(numbers: Numbers, coded: Coded, variance: float, jobs: int) -> float:
    entry = coded.entry
    starts = {chunk.first_line: at for at, chunk in enumerate(entry.chunks)}

    def work(first: int, lines: int) -> float:
        at = starts[first]
        words = decode_tokens(entry, coded.blobs[0], coded.blobs[1 + at], entry.chunks[at], numbers.name)
        gap = numbers.floats(*numbers.layout.span(first, lines)).astype(np.float64) - from_words(words, entry.format)
        return float((gap * gap).sum())

    total = sum(chunk_map(work, numbers.layout, jobs))
    return total / numbers.layout.values / variance if variance > 0 else 0.0
