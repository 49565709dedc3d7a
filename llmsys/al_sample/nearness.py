"""How far a basis is from orthonormal under D: ρ, η, ‖G − I‖, and what they promise (the paper's subject, 2306.03356).

Columns are scaled to E|v_i|² = 1 first. With η = (d−1)ρ < 1, Gershgorin gives (1−η)‖c‖² ≤ ‖f‖² ≤ (1+η)‖c‖² and
‖v(x)‖²/(1+η) ≤ τ(x) ≤ ‖v(x)‖²/(1−η); ‖G − I‖ may replace η where it is smaller. Knows no sampler.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmsys.al_sample.design import Design
from llmsys.al_sample.frames import triangular_factor

__all__ = ["NEARLY", "Nearness", "measure_nearness", "nearness_of_gram"]

NEARLY = 0.1

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Nearness:
    """Measured on the whole pool: `scale` [d] are the columns' lengths under D, 0 for a column that is 0."""

    rho: float
    eta: float
    gram_distance: float
    scale: Floats

    @property
    def bound(self) -> float:
        """The smaller of η and ‖G − I‖: eigenvalues of the scaled G lie in [1 − bound, 1 + bound]."""
        return min(self.eta, self.gram_distance)

    @property
    def nearly_orthogonal(self) -> bool:
        """Whether the bound is at most 1/10."""
        return self.bound <= NEARLY


def measure_nearness(design: Design) -> Nearness:
    """Measure in one pass over the pool."""
    factor = triangular_factor(block for _, block in design.weighted_blocks())
    return nearness_of_gram(factor.T @ factor / len(design))


def nearness_of_gram(gram: Floats) -> Nearness:
    """The same from G [d, d].

    >>> near = nearness_of_gram(np.array([[4.0, 0.2], [0.2, 1.0]]))
    >>> round(near.rho, 6), round(near.eta, 6), round(near.gram_distance, 6)
    (0.1, 0.1, 0.1)
    """
    scale = np.sqrt(np.diag(gram))
    safe = np.where(scale > 0, scale, 1.0)
    scaled = gram / safe / safe[:, None]
    rho = float(np.abs(scaled - np.diag(np.diag(scaled))).max())
    distance = float(np.abs(np.linalg.eigvalsh(scaled) - 1).max())
    return Nearness(rho, (len(gram) - 1) * rho, distance, scale)
