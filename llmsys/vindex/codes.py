"""One int8 code per vector: x ~ mean + scale * code, so that a score costs about d bytes of memory traffic.

score(q, x) ~ bias[x] - 2 * scale[x] * (q - mean) . code[x], where bias is ||x - mean||^2 under `l2` and 0 otherwise; it
orders vectors as the metric does, up to the code's error. The query gets a code of its own, so that sums of products
are exact integers in any order. A row holds all that its vector's score needs, in whole cache lines: code + 128 as
unsigned bytes, zeros, then as float32 the length of what the code leaves out (rounded up), scale and bias. Knows
neither tenants nor trees.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmsys.vindex.arrays import F32, F64, I32

__all__ = ["Bytes", "QueryCodes", "code_scores", "encode", "encode_queries", "row_bytes"]

Bytes = NDArray[np.uint8]

LEVELS = 127
SHIFT = 128
LINE = 64
EXTRA = 12
PIECE = 2**14


@dataclass(frozen=True, slots=True, eq=False)
class QueryCodes:
    """Codes of queries: code [m, s] int8, zero beyond d; twice_scale [m]; shift [m] int32, which code + 128 adds."""

    code: NDArray[np.int8]
    twice_scale: F32
    shift: I32


def row_bytes(dim: int) -> int:
    """Bytes s of a coded row, a multiple of 64."""
    return -(-(dim + EXTRA) // LINE) * LINE


def encode(vectors: F32, mean: F32, metric: str) -> Bytes:
    """Rows [n, s] of vectors [n, d] about a mean [d]."""
    rows = np.zeros((len(vectors), row_bytes(vectors.shape[1])), np.uint8)
    for start in range(0, len(vectors), PIECE):
        piece = slice(start, start + PIECE)
        _encode_piece(rows[piece], vectors[piece].astype(np.float64) - mean, metric)
    return rows


def _encode_piece(rows: Bytes, centred: F64, metric: str) -> None:
    largest = np.abs(centred).max(axis=1, initial=0)
    with np.errstate(over="ignore"):
        scale = (largest / LEVELS).astype(np.float32)
        scale[scale == 0] = 1
        whole = np.clip(np.rint(centred / scale[:, None]), -LEVELS, LEVELS)
        left = np.sqrt(np.square(centred - scale[:, None].astype(np.float64) * whole).sum(axis=1))
        rows[:, : centred.shape[1]] = whole.astype(np.int16) + SHIFT
        numbers = rows.view(np.float32)
        numbers[:, -3] = np.nextafter((left * (1 + 1e-6)).astype(np.float32), np.float32(np.inf))
        numbers[:, -2] = scale
        numbers[:, -1] = np.square(centred).sum(axis=1) if metric == "l2" else 0


def encode_queries(queries: F32, mean: F32) -> QueryCodes:
    """Codes of queries [m, d] about the vectors' mean [d]."""
    scale, whole = _rounded(queries - mean)
    code = np.zeros((len(queries), row_bytes(queries.shape[1])), np.int8)
    code[:, : queries.shape[1]] = whole
    return QueryCodes(code, (2 * scale).astype(np.float32), SHIFT * code.sum(axis=1, dtype=np.int32))


def code_scores(rows: Bytes, queries: QueryCodes, query: int) -> F32:
    """The score of every coded row [n, s] for one of the queries."""
    numbers: NDArray[Any] = np.ascontiguousarray(rows).view(np.float32)
    dot = rows.astype(np.int32) @ queries.code[query].astype(np.int32) - queries.shift[query]
    near: F32 = numbers[:, -1] - (queries.twice_scale[query] * numbers[:, -2]) * dot.astype(np.float32)
    return near


def _rounded(rows: F32) -> tuple[F32, F32]:
    scale = (np.abs(rows).max(axis=1, initial=0) / LEVELS).astype(np.float32)
    scale[scale == 0] = 1
    whole: F32 = np.rint(rows / scale[:, None]).astype(np.float32)
    return scale, np.clip(whole, -LEVELS, LEVELS)
