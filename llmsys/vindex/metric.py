"""The three metrics, as one score that is smaller for what is nearer.

The score is the squared distance under `l2` and minus the inner product under `ip` and `cosine`; `cosine` stores unit
vectors. Knows no index.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmsys.errors import BadInput, UsageFault
from llmsys.vindex.arrays import F32, F64, Stored

__all__ = ["MAX_DIM", "METRICS", "NUMBERS", "check_metric", "distances", "kept", "prepared", "scores"]

METRICS = ("l2", "ip", "cosine")
NUMBERS: dict[str, np.dtype[np.floating[Any]]] = {"f32": np.dtype(np.float32), "f16": np.dtype(np.float16)}
MAX_DIM = 4096
LARGEST = 1e18


def check_metric(metric: str) -> str:
    """The metric itself. Raises UsageFault for a name that is none of METRICS."""
    if metric not in METRICS:
        raise UsageFault(f"metric {metric!r} is not one of {', '.join(METRICS)}")
    return metric


def prepared(values: NDArray[Any], metric: str, where: str, dim: int | None = None) -> F32:
    """Vectors [n, d] as float32, of unit length under `cosine`.

    Raises BadInput at `where` for another shape or dimension, NaN, numbers whose squares overflow, and a zero vector
    under `cosine`.
    """
    if values.ndim != 2 or not 0 < values.shape[1] <= MAX_DIM:
        raise BadInput(where, f"shape {values.shape}", f"[n, d] with d from 1 to {MAX_DIM}")
    if dim is not None and values.shape[1] != dim:
        raise BadInput(where, f"vectors of {values.shape[1]} numbers", str(dim))
    with np.errstate(over="ignore", invalid="ignore"):
        rows: F32 = np.ascontiguousarray(values, np.float32)
        largest = np.abs(rows).max(initial=0)
    if not largest <= LARGEST:
        usable = (np.abs(rows) <= LARGEST).all(axis=1)
        raise BadInput(f"{where}: row {int(np.argmin(usable))}", "NaN or a number over 1e18", "finite numbers")
    if metric != "cosine":
        return rows
    wide = rows.astype(np.float64)
    lengths = np.sqrt(np.einsum("nd,nd->n", wide, wide))
    if not lengths.min(initial=1):
        raise BadInput(f"{where}: row {int(np.argmin(lengths))}", "a zero vector under cosine", "a direction")
    unit: F32 = (rows / lengths[:, None]).astype(np.float32)
    return unit


def kept(rows: F32, dtype: str, where: str) -> Stored:
    """Vectors [n, d] as they are kept, in one of NUMBERS (else UsageFault).

    Raises BadInput at `where` for a number beyond float16.
    """
    if dtype not in NUMBERS:
        raise UsageFault(f"dtype {dtype!r} is not one of {', '.join(NUMBERS)}")
    with np.errstate(over="ignore"):
        stored: Stored = rows.astype(NUMBERS[dtype], copy=False)
    fits = np.isfinite(stored).all(axis=1)
    if not fits.all():
        raise BadInput(f"{where}: row {int(np.argmin(fits))}", "a number beyond float16", "at most 65504, or f32")
    return stored


def scores(query: F32, vectors: Stored, metric: str) -> F64:
    """The score of every vector [n, d] for one query [d], in float64."""
    wide = vectors.astype(np.float64)
    if metric != "l2":
        return np.asarray(-(wide @ query.astype(np.float64)), np.float64)
    wide -= query
    return np.asarray(np.einsum("nd,nd->n", wide, wide), np.float64)


def distances(found: F64, metric: str) -> F32:
    """What a user sees of scores: the squared distance under `l2`, the similarity under `ip` and `cosine`."""
    seen: F32 = (found if metric == "l2" else -found).astype(np.float32)
    return seen
