"""One int8 code per vector: x ~ mean + scale * code, so that a score costs d bytes of memory traffic.

score(q, x) ~ bias[x] - 2 * scale[x] * (q - mean) . code[x], where bias is ||x - mean||^2 under `l2` and 0 otherwise; it
orders vectors as the metric does, up to the code's error. The query gets a code of its own, so that sums of products of
small integers are exact in float32 (d <= 1040) in any order. Knows neither tenants nor trees.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmsys.vindex.arrays import F32

__all__ = ["Codes", "QueryCodes", "encode", "encode_queries"]

LEVELS = 127


@dataclass(frozen=True, slots=True, eq=False)
class Codes:
    """Codes of vectors: code [n, d] int8, scale [n], bias [n]."""

    code: NDArray[np.int8]
    scale: F32
    bias: F32


@dataclass(frozen=True, slots=True, eq=False)
class QueryCodes:
    """Codes of queries: code [m, d] whole numbers in float32, twice_scale [m]."""

    code: F32
    twice_scale: F32


def encode(vectors: F32, mean: F32, metric: str) -> Codes:
    """Codes of vectors [n, d] about a mean [d]."""
    centred = vectors - mean
    scale, whole = _rounded(centred)
    bias = np.einsum("nd,nd->n", centred, centred) if metric == "l2" else np.zeros(len(vectors), np.float32)
    return Codes(whole.astype(np.int8), scale, bias.astype(np.float32))


def encode_queries(queries: F32, mean: F32) -> QueryCodes:
    """Codes of queries [m, d] about the vectors' mean [d]."""
    scale, whole = _rounded(queries - mean)
    return QueryCodes(whole, (2 * scale).astype(np.float32))


def _rounded(rows: F32) -> tuple[F32, F32]:
    largest = np.abs(rows).max(axis=1, initial=0)
    scale = np.where(largest > 0, largest / LEVELS, 1).astype(np.float32)
    whole: F32 = np.rint(rows / scale[:, None]).astype(np.float32)
    return scale, np.clip(whole, -LEVELS, LEVELS)
