"""An orthonormal basis of the family under D, and the leverage of every point, in two passes over a pool on disk.

Pass 1 is a TSQR in float64 (the Gram matrix would square the condition number) and reveals the rank; pass 2 multiplies
by the inverse factor. Memory: one block, O(d²), and 8 bytes per point. Knows no selection rule.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import qr, solve_triangular

from llmsys.al_sample.design import Design
from llmsys.al_sample.errors import RankDeficient

__all__ = [
    "Frame",
    "Scores",
    "frame_from_factor",
    "frame_of",
    "leverage",
    "near_frame",
    "ridge_frame",
    "score_points",
    "triangular_factor",
]

EPS = float(np.finfo(np.float64).eps)
COORDINATES = 16

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """Columns `kept` [r] of the basis times `transform` [r, r] are orthonormal under D; `dropped` depend on them.

    `factor` [r, r] is its inverse: ‖f‖_D = ‖factor·c‖ for coefficients c of the kept columns.
    """

    kept: NDArray[np.int64]
    dropped: NDArray[np.int64]
    transform: Floats
    factor: Floats

    @property
    def rank(self) -> int:
        """Dimension of the family on the pool."""
        return len(self.kept)

    def orthonormal(self, values: Floats) -> Floats:
        """u [n, r] from basis values [n, d]."""
        result: Floats = values[:, self.kept] @ self.transform
        return result

    def norm(self, coefficients: Floats) -> float:
        """‖f‖_D of coefficients [r] or, as the root of the sum of squares, of several outputs [r, o]."""
        return float(np.linalg.norm(self.factor @ coefficients))


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """`leverage` [n] is n·D·τ/n, which sums to the rank; `coordinates` [n, q] place the points for a tree, or None."""

    leverage: Floats
    coordinates: NDArray[np.float32] | None = None


def triangular_factor(blocks: Iterable[Floats]) -> Floats:
    """R [≤ d, d] with R*R = Σ block* block, by one QR per block (TSQR as a chain). Raises ValueError for no block."""
    factor: Floats | None = None
    for block in blocks:
        stacked = block if factor is None else np.vstack([factor, block])
        factor = np.asarray(np.linalg.qr(stacked, mode="r"))
    if factor is None:
        raise ValueError("no block; expected at least one")
    return factor


def frame_of(design: Design) -> Frame:
    """Pass 1. A direction below n·eps of the largest, after columns are scaled to one length, is dropped.

    Raises RankDeficient for a basis that is 0 on the whole pool.
    """
    factor = triangular_factor(block for _, block in design.weighted_blocks())
    return frame_from_factor(factor, len(design), design.pool.name)


def frame_from_factor(factor: Floats, n: int, name: str) -> Frame:
    """The frame that R with R*R = n·G gives."""
    lengths = np.linalg.norm(factor, axis=0)
    scaled = factor / np.where(lengths > 0, lengths, 1.0)
    pivoted, order = qr(scaled, mode="r", pivoting=True)
    sizes = np.abs(np.diag(pivoted))
    rank = int(np.count_nonzero(sizes > max(n, factor.shape[1]) * EPS * sizes[0]))
    if rank == 0:
        raise RankDeficient(name, 0, 1)
    kept = np.sort(order[:rank]).astype(np.int64)
    dropped = np.setdiff1d(np.arange(factor.shape[1]), kept).astype(np.int64)
    inner = np.linalg.qr(factor[:, kept], mode="r") / np.sqrt(n)
    return Frame(kept, dropped, solve_triangular(inner, np.eye(rank)), inner)


def ridge_frame(design: Design, frame: Frame, ridge: float) -> Frame:
    """The frame of n·G + ridge·I: its leverages sum to the effective dimension."""
    pool_factor = frame.factor * np.sqrt(len(design))
    stacked = np.linalg.qr(np.vstack([pool_factor, np.sqrt(ridge) * np.eye(frame.rank)]), mode="r")
    inner = stacked / np.sqrt(len(design))
    return Frame(frame.kept, frame.dropped, solve_triangular(inner, np.eye(frame.rank)), inner)


def near_frame(scale: Floats) -> Frame:
    """Columns divided by their lengths under D, for a basis that is nearly orthonormal: no Gram matrix, no inverse."""
    kept = np.flatnonzero(scale > 0).astype(np.int64)
    dropped = np.flatnonzero(scale <= 0).astype(np.int64)
    return Frame(kept, dropped, np.diag(1 / scale[kept]), np.diag(scale[kept]))


def score_points(design: Design, frame: Frame, *, coordinates: bool = False, seed: int = 0) -> Scores:
    """Pass 2: the leverage of every point and, if wanted, at most 16 random projections of its u."""
    n = len(design)
    scores = np.empty(n)
    width = min(frame.rank, COORDINATES)
    mixing = np.eye(frame.rank)
    if width < frame.rank:
        mixing = np.random.default_rng([seed, 1]).standard_normal((frame.rank, width)) / np.sqrt(width)
    places = np.empty((n, width), np.float32) if coordinates else None
    for start, block in design.weighted_blocks():
        u = frame.orthonormal(block)
        scores[start : start + len(u)] = np.einsum("ij,ij->i", u, u) / n
        if places is not None:
            places[start : start + len(u)] = u @ mixing
    return Scores(np.minimum(scores, 1.0), places)


def leverage(values: Floats) -> Floats:
    """Leverage [n] of the rows of A [n, d]: the diagonal of the hat matrix, in [0, 1], with sum rank(A).

    >>> leverage(np.array([[1.0], [1.0], [0.0]])).round(6)
    array([0.5, 0.5, 0. ])
    """
    frame = frame_from_factor(triangular_factor([values]), len(values), "values")
    u = frame.orthonormal(values)
    diagonal: Floats = np.einsum("ij,ij->i", u, u) / len(values)
    return np.minimum(diagonal, 1.0)
