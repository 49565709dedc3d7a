"""The five kernels f(x, y), always as natural logarithms, so that no value under- or overflows.

    gaussian     exp(-|x-y|^2 / 2h^2)        laplacian    exp(-|x-y|_1 / h)
    exponential  exp(-|x-y| / h)             cauchy       1 / (1 + |x-y|^2 / h^2)
    dot          exp(S <x,y>)

Knows nothing of sums. `scale` is the bandwidth h, or S for dot.
"""

import math
from dataclasses import dataclass

import numpy as np

from llmsys.errors import UsageFault
from llmsys.pse_hash.arrays import F64, Numbers

__all__ = ["KERNELS", "Kernel"]

KERNELS = ("gaussian", "exponential", "laplacian", "cauchy", "dot")
NEAR = 1e-6
ROW_BYTES = 2**24


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel by name. Raises UsageFault for an unknown name or a scale that is not above 0 and finite."""

    name: str
    scale: float

    def __post_init__(self) -> None:
        if self.name not in KERNELS:
            raise UsageFault(f"kernel {self.name!r}; expected one of {', '.join(KERNELS)}")
        if not (self.scale > 0 and math.isfinite(self.scale)):
            raise UsageFault(f"bandwidth or scale {self.scale:g}; expected a finite number above 0")

    @property
    def uses_distance(self) -> bool:
        """Whether f falls with a distance: f(x, x) = 1 is its maximum, and moving all points changes nothing."""
        return self.name != "dot"

    @property
    def lipschitz(self) -> float:
        """The most that y -> f(x, y) changes per unit of Euclidean distance, for one x; infinite for dot.

        For laplacian in d dimensions multiply by sqrt(d): |v|_1 <= sqrt(d) |v|.
        """
        slopes = {"gaussian": math.exp(-0.5), "exponential": 1.0, "laplacian": 1.0, "cauchy": 3 * math.sqrt(3) / 8}
        return slopes[self.name] / self.scale if self.name in slopes else math.inf

    def log_of(self, gap: Numbers) -> F64:
        """log f of squared distances (gaussian, cauchy), distances (exponential), L1 distances or inner products."""
        wide = np.asarray(gap, np.float64)
        match self.name:
            case "gaussian":
                return wide * (-0.5 / self.scale**2)
            case "cauchy":
                return -np.log1p(wide / self.scale**2)
            case "dot":
                return wide * self.scale
        return wide * (-1 / self.scale)

    def log_at_distance(self, distance: Numbers) -> F64:
        """log f at Euclidean distances; for laplacian an upper bound of it, since |v|_1 >= |v|. Not for dot."""
        wide = np.asarray(distance, np.float64)
        return self.log_of(wide * wide if self.name in ("gaussian", "cauchy") else wide)

    def log_pairs(self, queries: Numbers, points: Numbers) -> F64:
        """log f of every query [q, d] with every point [n, d]: [q, n].

        Pairs so near that |y|^2 + |x|^2 - 2<x,y> would cancel are taken again from the differences.
        """
        y, x = np.asarray(queries, np.float64), np.asarray(points, np.float64)
        if self.name == "laplacian":
            from scipy.spatial.distance import cdist

            return self.log_of(cdist(y, x, "cityblock"))
        inner: F64 = y @ x.T
        if self.name == "dot":
            return self.log_of(inner)
        size = np.einsum("ij,ij->i", y, y)[:, None] + np.einsum("ij,ij->i", x, x)[None]
        squared = size - 2 * inner
        rows, columns = np.nonzero(squared < NEAR * size)
        step = max(1, ROW_BYTES // (8 * max(1, x.shape[1])))
        for start in range(0, len(rows), step):
            i, j = rows[start : start + step], columns[start : start + step]
            squared[i, j] = np.square(y[i] - x[j]).sum(axis=1)
        np.maximum(squared, 0, out=squared)
        return self.log_of(np.sqrt(squared) if self.name == "exponential" else squared)

    def log_row(self, query: F64, points: Numbers) -> F64:
        """log f of one query [d] with points [m, d], from their differences: [m]."""
        x = np.asarray(points, np.float64)
        if self.name == "dot":
            return self.log_of(x @ query)
        gaps = x - query
        if self.name == "laplacian":
            return self.log_of(np.abs(gaps).sum(axis=1))
        squared = np.einsum("ij,ij->i", gaps, gaps)
        return self.log_of(np.sqrt(squared) if self.name == "exponential" else squared)
