"""The codec `wtq`: `tq` with a step for every row and column, and how its decoder reads it.

level · step / (row weight · column weight), weights in quarters of an octave. The stream inside is `tq`'s, of whole
levels. Products of whole powers and four constants, so that every machine decodes the same. Knows no statistics.
"""

import math
import struct

import msgspec
import numpy as np
from numpy.typing import NDArray

from llmsys.compress.bit_codes import read_numbers, unzigzag, write_numbers, zigzag
from llmsys.compress.errors import BadBitstream
from llmsys.compress.number_formats import F32, FORMATS, Words, from_words, to_words
from llmsys.compress.records import Chunk, TensorEntry
from llmsys.compress.tensor_codec import decode_tq

__all__ = ["LARGEST_CODE", "decode_weighted", "weights_of", "write_weights"]

HEAD = struct.Struct("<IId")
ORDER = 2
LARGEST_CODE = 200
QUARTERS = np.array([1.0, 1.189207115002721, 1.4142135623730951, 1.681792830507429])
"""2^0, 2^¼, 2^½, 2^¾, as the nearest float64."""

I64 = NDArray[np.int64]
F64 = NDArray[np.float64]


def weights_of(codes: I64) -> F64:
    """Weights 2^(code / 4) of codes [n]."""
    return np.asarray(np.ldexp(QUARTERS[codes & 3], codes >> 2), np.float64)


def write_weights(step: float, rows: I64, columns: I64, inner: bytes) -> bytes:
    """The shared part: the codes of rows and columns, then that of the stream of levels."""
    coded = write_numbers(zigzag(np.concatenate([rows, columns])), ORDER)
    return HEAD.pack(len(rows), len(coded), step) + coded + inner


def decode_weighted(entry: TensorEntry, side: bytes, payload: bytes, chunk: Chunk, where: str) -> Words:
    """Words of a chunk, rounded to the tensor's number format."""
    right = "what encode wrote"
    if len(side) < HEAD.size:
        raise BadBitstream(where, f"a shared part of {len(side)} bytes", right)
    rows, coded, step = HEAD.unpack_from(side)
    lines = -(-entry.values // entry.width)
    if rows != lines or entry.values % entry.width or not (math.isfinite(step) and step > 0):
        raise BadBitstream(where, f"weights of {rows} rows, step {step}", f"{lines} rows of {entry.width}")
    codes = read_numbers(side[HEAD.size : HEAD.size + coded], rows + entry.width, ORDER)
    if codes is None or int(codes.max()) > 2 * LARGEST_CODE:
        raise BadBitstream(where, "weights that do not decode", right)
    weights = weights_of(unzigzag(codes))
    inner = msgspec.structs.replace(entry, dtype="f32")
    words = decode_tq(inner, side[HEAD.size + coded :], payload, chunk, where)
    levels = from_words(words, FORMATS["f32"]).reshape(chunk.lines, entry.width)
    own = weights[chunk.first_line : chunk.first_line + chunk.lines]
    return to_words(restored(levels, step, own, weights[rows:]).reshape(-1), entry.format)


def restored(levels: F32, step: float, rows: F64, columns: F64) -> F32:
    """The values of levels [rows, columns]."""
    with np.errstate(over="ignore"):
        return np.asarray(levels.astype(np.float64) * step / (rows[:, None] * columns[None, :]), np.float32)
