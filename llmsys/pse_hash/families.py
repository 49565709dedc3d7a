"""Hash families with known collision probabilities: p-stable Euclidean, shifted grids in L1, caps on the sphere.

A family draws `tables` functions at once and gives int64 keys; `log_probability` is that of one function. Formulas:
p-stable, Datar et al. 2004 (k concatenated); grid, P = exp(-|x-y|_1/h); caps, first of m gaussians above t (D+) or,
for the query, below -t (D-): p = P2/(2 P1 - P2) (1 - (1 - 2 P1 + P2)^m). Knows no table.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from llmsys.errors import BadInput
from llmsys.pse_hash.arrays import F64, I64, Numbers
from llmsys.pse_hash.kernel import Kernel

__all__ = ["NO_BUCKET", "Caps", "Family", "Grid", "Hasher", "Stable", "families_for"]

NO_BUCKET = -1
COSINES = 4096
STEPS_PER_COSINE = 16
MAX_CAPS = 512


class Hasher(Protocol):
    """Drawn functions, one for each table."""

    def keys(self, values: Numbers, *, asked: bool) -> I64:
        """Keys [n, tables] of points, or of queries with `asked`; NO_BUCKET for a query that meets nothing."""


class Family(Protocol):
    """A distribution of hash functions."""

    def drawn(self, dim: int, tables: int, rng: np.random.Generator) -> Hasher:
        """`tables` independent functions of vectors [dim]."""

    def log_probability(self, query: F64, points: Numbers) -> F64:
        """log P[h(x) = h(y)] for one query [d] and points [m, d]."""


def families_for(kernel: Kernel) -> tuple[Family, ...]:
    """The candidates for a kernel, from which `resolution.chosen` takes the best."""
    if kernel.name == "laplacian":
        return (Grid(kernel.scale),)
    if kernel.name == "dot":
        return tuple(Caps(t, sign=sign) for t in (0.5, 1.0, 1.5, 2.0) for sign in (1, -1))
    return tuple(Stable(width * kernel.scale, k) for k in (1, 2, 4, 8, 16) for width in (2.0, 4.0, 8.0, 16.0))


@dataclass(frozen=True, slots=True)
class Stable:
    """k hashes floor((<a, x> + b) / w) with gaussian a, concatenated."""

    width: float
    k: int

    def drawn(self, dim: int, tables: int, rng: np.random.Generator) -> Hasher:
        """Functions floor((<a, x> + b) / w)."""
        directions = rng.standard_normal((dim, tables * self.k)) / self.width
        shifts = rng.random(tables * self.k)
        return _Cells(directions, shifts, _multipliers(self.k, rng), tables)

    def log_probability(self, query: F64, points: Numbers) -> F64:
        """k log(1 - 2 Phi(-s) - 2/(sqrt(2 pi) s) (1 - e^{-s^2/2})), s = w / |x - y|."""
        from scipy.special import ndtr

        gaps = np.asarray(points, np.float64) - query
        s = self.width / np.maximum(np.sqrt(np.einsum("ij,ij->i", gaps, gaps)), 1e-12 * self.width)
        p = 1 - 2 * ndtr(-s) + 2 / (math.sqrt(2 * math.pi) * s) * np.expm1(-0.5 * s * s)
        # For small s the difference cancels; its series is s / sqrt(2 pi) - s^3 / (12 sqrt(2 pi)).
        series = s / math.sqrt(2 * math.pi) * (1 - s * s / 12)
        logs: F64 = self.k * np.log(np.where(s < 1e-2, series, p))
        return logs


@dataclass(frozen=True, slots=True)
class Grid:
    """Randomly shifted grids with a spacing from Gamma(2, h) for each coordinate: P is the laplacian kernel itself."""

    scale: float

    def drawn(self, dim: int, tables: int, rng: np.random.Generator) -> Hasher:
        """Functions of all coordinates: each in its own grid."""
        spacing = rng.gamma(2.0, self.scale, (tables, dim))
        return _Grids(1 / spacing, rng.random((tables, dim)), _multipliers(dim, rng))

    def log_probability(self, query: F64, points: Numbers) -> F64:
        """-|x - y|_1 / h."""
        logs: F64 = -np.abs(np.asarray(points, np.float64) - query).sum(axis=1) / self.scale
        return logs


class Caps:
    """The first of m gaussian directions within whose cap {<g, x> >= t} a unit vector lies."""

    def __init__(self, threshold: float, *, sign: int) -> None:
        self.threshold, self.sign = threshold, sign
        tail = 0.5 * math.erfc(threshold / math.sqrt(2))
        self.m = min(MAX_CAPS, math.ceil(3 / tail))
        # P2(rho) = integral of exp(-t^2 / (1 + sin a)) / 2 pi over a from -pi/2 to asin(rho) (Plackett's identity).
        angles = np.linspace(-math.pi / 2, math.pi / 2, COSINES * STEPS_PER_COSINE + 1)
        middle = 0.5 * (angles[1:] + angles[:-1])
        steps = np.exp(-(threshold**2) / np.maximum(1 + np.sin(middle), 1e-300)) / (2 * math.pi) * np.diff(angles)
        both = np.concatenate([[0.0], np.cumsum(steps)])[::STEPS_PER_COSINE]
        both = np.maximum(both, 1e-300)
        p = both / (2 * tail - both) * -np.expm1(self.m * np.log1p(-(2 * tail - both)))
        self._angles, self._logs = angles[::STEPS_PER_COSINE], np.log(p)

    def drawn(self, dim: int, tables: int, rng: np.random.Generator) -> Hasher:
        """Functions of unit vectors; others are taken by their direction."""
        return _CapHasher(rng.standard_normal((dim, tables * self.m)), self.m, self.threshold, self.sign)

    def log_probability(self, query: F64, points: Numbers) -> F64:
        """From a table over the angle; for D- that of the opposite query."""
        cosine = _unit(np.asarray(points, np.float64)) @ _unit(query[None])[0]
        logs: F64 = np.interp(np.arcsin(np.clip(self.sign * cosine, -1, 1)), self._angles, self._logs)
        return logs


@dataclass(frozen=True, slots=True)
class _Cells:
    directions: F64
    shifts: F64
    multipliers: "np.ndarray[tuple[int], np.dtype[np.uint64]]"
    tables: int

    def keys(self, values: Numbers, *, asked: bool) -> I64:
        cells = np.floor(np.asarray(values, np.float64) @ self.directions + self.shifts).astype(np.int64)
        return _mixed(cells.reshape(len(cells), self.tables, -1), self.multipliers)


@dataclass(frozen=True, slots=True)
class _Grids:
    density: F64
    shifts: F64
    multipliers: "np.ndarray[tuple[int], np.dtype[np.uint64]]"

    def keys(self, values: Numbers, *, asked: bool) -> I64:
        wide = np.asarray(values, np.float64)
        columns = [
            _mixed(np.floor(wide * density + shift).astype(np.int64), self.multipliers)
            for density, shift in zip(self.density, self.shifts, strict=True)
        ]
        return np.stack(columns, axis=1)


@dataclass(frozen=True, slots=True)
class _CapHasher:
    directions: F64
    m: int
    threshold: float
    sign: int

    def keys(self, values: Numbers, *, asked: bool) -> I64:
        unit = _unit(np.asarray(values, np.float64))
        shape = (-1, self.directions.shape[1] // self.m, self.m)
        rows = [self._first(unit[start : start + 64], shape, asked=asked) for start in range(0, len(unit), 64)]
        return np.concatenate(rows) if rows else np.zeros((0, shape[1]), np.int64)

    def _first(self, unit: F64, shape: tuple[int, int, int], *, asked: bool) -> I64:
        inside = (unit @ self.directions * (self.sign if asked else 1)).reshape(shape) >= self.threshold
        nothing = NO_BUCKET if asked else self.m
        return np.where(inside.any(axis=2), inside.argmax(axis=2), nothing)


def _multipliers(count: int, rng: np.random.Generator) -> "np.ndarray[tuple[int], np.dtype[np.uint64]]":
    return rng.integers(0, 2**63, count, dtype=np.uint64) * np.uint64(2) + np.uint64(1)


def _mixed(cells: I64, multipliers: "np.ndarray[tuple[int], np.dtype[np.uint64]]") -> I64:
    """One non-negative 63-bit key per row of cells [..., k]."""
    words = cells.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * multipliers
    key = (words ^ (words >> np.uint64(31))).sum(axis=-1, dtype=np.uint64)
    keys: I64 = (key >> np.uint64(1)).astype(np.int64)
    return keys


def _unit(values: F64) -> F64:
    length = np.sqrt(np.einsum("ij,ij->i", values, values))
    if not (length > 0).all():
        row = int(np.argmin(length > 0))
        raise BadInput(f"row {row}", "a vector of norm 0", "a direction, for hashing on the sphere")
    unit: F64 = values / length[:, None]
    return unit
