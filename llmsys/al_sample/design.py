"""The matrix that a basis and a pool make, read in blocks, under a distribution D over the points.

Notation of the whole package: A [n, d] basis values, `measure` [n] with mean 1 (n·D), G = (1/n)·Σ measure·v v*.
Knows nothing of labels.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmsys.al_sample.bases import Basis
from llmsys.al_sample.pools import Pool
from llmsys.errors import BadInput

__all__ = ["Design", "design_of"]

BLOCK_NUMBERS = 2**23

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Design:
    """A pool seen through a basis; `measure` [n] is n·D, None for the uniform distribution."""

    pool: Pool
    basis: Basis
    measure: Floats | None = None
    block_rows: int = 0

    def __len__(self) -> int:
        return len(self.pool)

    @property
    def dim(self) -> int:
        """Columns of A."""
        return self.basis.dim

    def blocks(self) -> Iterator[tuple[int, Floats]]:
        """Yield (first row, basis values [rows, d]) over the pool. Raises BadInput that names a row with NaN."""
        step = self.block_rows or max(1024, BLOCK_NUMBERS // max(self.dim, self.pool.inputs))
        for start in range(0, len(self), step):
            values = self.basis(self.pool.values[start : start + step])
            finite = np.isfinite(values).all(axis=1)
            if not finite.all():
                row = start + int(np.argmin(finite))
                raise BadInput(f"{self.pool.name}: row {row}", "NaN or infinity", "finite basis values")
            yield start, values

    def weighted_blocks(self) -> Iterator[tuple[int, Floats]]:
        """The same with every row times √measure: their Gram matrix is n·G."""
        for start, values in self.blocks():
            if self.measure is None:
                yield start, values
            else:
                yield start, values * np.sqrt(self.measure[start : start + len(values), None])

    def at(self, index: NDArray[np.int64]) -> Floats:
        """Basis values [k, d] of the rows `index` [k]."""
        return self.basis(np.asarray(self.pool.values[index]))

    def density(self, index: NDArray[np.int64]) -> Floats:
        """n·D at the rows `index`: 1 for the uniform distribution."""
        return np.ones(len(index)) if self.measure is None else self.measure[index]


def design_of(pool: Pool, basis: Basis, weights: Floats | None = None, *, block_rows: int = 0) -> Design:
    """A design under D ∝ `weights` [n] (uniform without). Raises BadInput if all are 0."""
    if weights is None:
        return Design(pool, basis, None, block_rows)
    if weights.shape != (len(pool),):
        raise ValueError(f"weights of shape {weights.shape}; expected [{len(pool)}]")
    total = float(weights.sum())
    if not total > 0:
        raise BadInput(pool.name, "weights that are all 0", "a point with a weight above 0")
    return Design(pool, basis, weights * (len(pool) / total), block_rows)
