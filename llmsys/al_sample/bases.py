"""Families of functions on the points: what `--basis` names, resolved against a pool and evaluated in blocks.

    linear               the inputs themselves
    poly:P               monomials of total degree 1..P, inputs as they are
    legendre:P           products of Legendre polynomials of total degree 1..P, orthonormal on [-1, 1]^m
    chebyshev:P          the same with Chebyshev polynomials under their own measure
    fourier:P            √2 cos(2πfx), √2 sin(2πfx) for f = 1..P, one input at a time
    rff:D:H              D random Fourier features of the Gaussian kernel of width H (Rahimi & Recht 2007)
    FILE.py:FUNCTION     FUNCTION(X [n, m]) -> [n, d], the user's own Python

legendre, chebyshev and fourier map every input from the range that it has in the pool. All columns are real. An
intercept comes first unless the columns hold a constant already. Knows no labels and no weights.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from importlib.util import module_from_spec, spec_from_file_location
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from llmsys.al_sample.pools import Pool
from llmsys.errors import BadInput, UsageFault

__all__ = ["MAX_COLUMNS", "Basis", "BasisSpec", "resolve_basis"]

MAX_COLUMNS = 8192
SHAPES = "linear, poly:P, legendre:P, chebyshev:P, fourier:P, rff:D:H or FILE.py:FUNCTION"
RANGED = ("legendre", "chebyshev", "fourier")
MAY_BE_CONSTANT = ("linear", "poly", "file")
SCAN_ROWS = 2**16

Floats = NDArray[np.float64]


class Basis(Protocol):
    """d functions: calling it on points [n, m] returns their values [n, d], float64."""

    @property
    def dim(self) -> int: ...

    def __call__(self, points: NDArray[Any]) -> Floats: ...


class BasisSpec(msgspec.Struct, frozen=True):
    """A basis with nothing left open: what a model file keeps. `low` and `high` [m] are the pool's range of inputs."""

    kind: str
    inputs: int
    degree: int = 0
    width: float = 0.0
    seed: int = 0
    intercept: bool = False
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    file: str = ""
    function: str = ""

    @property
    def dim(self) -> int:
        """Columns, the intercept included."""
        return int(self(np.zeros((1, self.inputs))).shape[1])

    def __call__(self, points: NDArray[Any]) -> Floats:
        """Values [n, d] at points [n, m]. Raises ValueError for another m."""
        if points.ndim != 2 or points.shape[1] != self.inputs:
            raise ValueError(f"points of shape {points.shape}; expected [n, {self.inputs}]")
        values = self._columns(np.asarray(points, np.float64))
        return np.hstack([np.ones((len(points), 1)), values]) if self.intercept else values

    def _columns(self, x: Floats) -> Floats:
        if self.kind in RANGED:
            span = np.subtract(self.high, self.low)
            x = (x - np.asarray(self.low)) / np.where(span > 0, span, 1.0)
        if self.kind in ("legendre", "chebyshev"):
            x = 2 * x - 1
        if self.kind in PRODUCTS:
            return _products(x, self.degree, PRODUCTS[self.kind])
        if self.kind == "fourier":
            angles = 2 * math.pi * x[:, :, None] * np.arange(1, self.degree + 1)
            return math.sqrt(2) * np.concatenate([np.cos(angles), np.sin(angles)], 2).reshape(len(x), -1)
        if self.kind == "rff":
            frequencies, phases = _random_features(self.inputs, self.degree, self.seed)
            return math.sqrt(2) * np.cos(x @ frequencies / self.width + phases)
        return _called(self.file, self.function, x) if self.kind == "file" else x


def resolve_basis(spec: str, pool: Pool, *, intercept: bool = True, seed: int = 0) -> BasisSpec:
    """The basis that `spec` names on this pool; `intercept` puts a constant first unless a column is constant already.

    Raises UsageFault for a spec of no known form or of more than MAX_COLUMNS columns.
    """
    kind, _, rest = spec.partition(":")
    if kind.endswith(".py") and rest:
        basis = BasisSpec("file", pool.inputs, file=kind, function=rest)
    else:
        basis = _named(spec, kind, rest, pool, seed)
    if intercept and basis.kind in MAY_BE_CONSTANT:
        intercept = not _has_constant(basis, pool)
    return msgspec.structs.replace(basis, intercept=intercept)


def _named(spec: str, kind: str, rest: str, pool: Pool, seed: int) -> BasisSpec:
    numbers = rest.split(":") if rest else []
    wanted = {"linear": 0, "poly": 1, "legendre": 1, "chebyshev": 1, "fourier": 1, "rff": 2}
    try:
        if len(numbers) != wanted[kind]:
            raise ValueError(spec)
        degree = int(numbers[0]) if numbers else 0
        width = float(numbers[1]) if len(numbers) == 2 else 0.0
        if (numbers and degree < 1) or (kind == "rff" and not 0 < width < math.inf):
            raise ValueError(spec)
    except (KeyError, ValueError) as error:
        raise UsageFault(f"--basis {spec!r}; expected {SHAPES}") from error
    columns = {
        "linear": pool.inputs,
        "fourier": 2 * degree * pool.inputs,
        "rff": degree,
    }.get(kind) or math.comb(pool.inputs + degree, degree) - 1
    if columns > MAX_COLUMNS:
        raise UsageFault(
            f"--basis {spec} has {columns} columns on {pool.inputs} inputs; expected at most {MAX_COLUMNS}"
        )
    low, high = _ranges(pool) if kind in RANGED else ((), ())
    return BasisSpec(kind, pool.inputs, degree, width, seed, low=low, high=high)


def _ranges(pool: Pool) -> tuple[tuple[float, ...], tuple[float, ...]]:
    low, high = np.full(pool.inputs, np.inf), np.full(pool.inputs, -np.inf)
    for start in range(0, len(pool), SCAN_ROWS):
        block = np.asarray(pool.values[start : start + SCAN_ROWS], np.float64)
        low, high = np.minimum(low, block.min(axis=0)), np.maximum(high, block.max(axis=0))
    if not np.isfinite(high - low).all():
        column = int(np.argmin(np.isfinite(high - low)))
        raise BadInput(pool.name, f"no finite range in column {column}", "finite numbers")
    return tuple(low.tolist()), tuple(high.tolist())


def _has_constant(basis: BasisSpec, pool: Pool) -> bool:
    """Whether a column is the same number, not 0, at every point; reads on only while one may be."""
    first = basis(pool.values[:1])[0]
    possible = np.flatnonzero(first)
    for start in range(0, len(pool), SCAN_ROWS):
        if possible.size == 0:
            return False
        block = basis(pool.values[start : start + SCAN_ROWS])[:, possible]
        possible = possible[(block == first[possible]).all(axis=0)]
    return possible.size > 0


def _products(x: Floats, degree: int, table: Callable[[Floats, int], Floats]) -> Floats:
    """Products of univariate functions of total degree 1..P; `table` gives them as [P + 1, n, m]."""
    values = table(x, degree)
    columns = []
    for total in range(1, degree + 1):
        for chosen in combinations_with_replacement(range(x.shape[1]), total):
            column = np.ones(len(x))
            for one in sorted(set(chosen)):
                column = column * values[chosen.count(one), :, one]
            columns.append(column)
    return np.stack(columns, axis=1)


def _powers(x: Floats, degree: int) -> Floats:
    return np.stack([x**power for power in range(degree + 1)])


def _legendre(x: Floats, degree: int) -> Floats:
    """√(2k+1)·P_k: orthonormal under the uniform measure on [-1, 1]."""
    scale = np.sqrt(2.0 * np.arange(degree + 1) + 1)
    values: Floats = np.asarray(np.polynomial.legendre.legvander(x, degree) * scale, np.float64)
    return np.moveaxis(values, -1, 0)


def _chebyshev(x: Floats, degree: int) -> Floats:
    """√2·T_k, T_0 = 1: orthonormal under dx/(π√(1−x²))."""
    scale = np.r_[1.0, np.full(degree, math.sqrt(2))]
    values: Floats = np.polynomial.chebyshev.chebvander(x, degree) * scale
    return np.moveaxis(values, -1, 0)


PRODUCTS = {"poly": _powers, "legendre": _legendre, "chebyshev": _chebyshev}


@lru_cache(maxsize=4)
def _random_features(inputs: int, features: int, seed: int) -> tuple[Floats, Floats]:
    rng = np.random.default_rng([seed, inputs, features])
    return rng.standard_normal((inputs, features)), rng.uniform(0, 2 * math.pi, features)


@lru_cache(maxsize=4)
def _load(file: str, function: str) -> Callable[[Floats], object]:
    spec = spec_from_file_location(Path(file).stem, file)
    if spec is None or spec.loader is None or not Path(file).is_file():
        raise UsageFault(f"--basis {file}:{function}: no such Python file")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    found = getattr(module, function, None)
    if not callable(found):
        raise UsageFault(f"--basis {file}:{function}: the file defines no function {function!r}")
    return found  # type: ignore[no-any-return]


def _called(file: str, function: str, x: Floats) -> Floats:
    values = np.asarray(_load(file, function)(x), np.float64)
    if values.ndim != 2 or len(values) != len(x):
        raise UsageFault(f"--basis {file}:{function} returned shape {values.shape}; expected [{len(x)}, d]")
    return values
