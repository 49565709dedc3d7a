"""The seam between structures and answers: what a structure offers for one query, and the simplest structure.

Sums are relative to exp(shift), so that nothing underflows. Knows neither intervals nor robustness.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from llmsys.pse_hash.arrays import F64, I64
from llmsys.pse_hash.kernel import Kernel
from llmsys.pse_hash.points import PointSet

__all__ = ["Sampler", "Source", "Uniform", "UniformSampler", "largest_log"]


class Sampler(Protocol):
    """One query: sum_i a_i f(x_i, y) exp(-shift) = known + mean of the draws, which lie in [0, bound]."""

    shift: float
    known: float
    bound: float
    evals: int
    available: int | None
    forecast: float

    def draw(self, count: int, rng: np.random.Generator) -> F64:
        """`count` unbiased draws of the rest."""


class Source(Protocol):
    """A structure over the points that gives a sampler for each query; copies differ where it holds secrets."""

    secret: bool

    def at(self, query: F64, copy: int) -> Sampler:
        """The sampler of a centred query [d]."""

    def insert(self, slots: I64) -> None:
        """Take points that are now live."""

    def delete(self, slots: I64) -> None:
        """Forget points that are now dead; their vectors are still there."""

    @property
    def bytes(self) -> int:
        """Memory beyond the points."""


def largest_log(kernel: Kernel, query: F64, radius: float) -> float:
    """An upper bound of log f(x, query) over points of norm at most `radius`."""
    if kernel.uses_distance:
        return float(kernel.log_at_distance(np.array(max(0.0, float(np.linalg.norm(query)) - radius))))
    return kernel.scale * float(np.linalg.norm(query)) * radius


@dataclass(slots=True)
class UniformSampler:
    """Points drawn uniformly from the live ones."""

    points: PointSet
    kernel: Kernel
    query: F64
    slots: I64
    shift: float
    bound: float
    known: float = 0.0
    evals: int = 0
    available: int | None = None
    forecast: float = 1.0

    def draw(self, count: int, rng: np.random.Generator) -> F64:
        """n a_i f(x_i, y) exp(-shift) of `count` random points."""
        chosen = self.slots[rng.integers(len(self.slots), size=count)]
        self.evals += count
        logs = self.kernel.log_row(self.query, self.points.values[chosen])
        return np.exp(logs - self.shift) * self.points.weights[chosen] * len(self.slots)


class Uniform:
    """Random sampling (`rs`): no structure but the list of live points."""

    secret = False

    def __init__(self, points: PointSet, kernel: Kernel) -> None:
        self._points, self._kernel = points, kernel
        self._slots: I64 | None = None
        self._radius = self._heaviest = 0.0

    def at(self, query: F64, copy: int) -> UniformSampler:
        """A uniform sampler of all live points; copies are alike."""
        if self._slots is None:
            self._slots = self._points.live_slots()
            values = self._points.values[self._slots]
            self._radius = float(np.sqrt(np.einsum("ij,ij->i", values, values, dtype=np.float64).max(initial=0.0)))
            self._heaviest = float(self._points.weights[self._slots].max(initial=0.0))
        shift = largest_log(self._kernel, query, self._radius)
        bound = len(self._slots) * self._heaviest
        return UniformSampler(self._points, self._kernel, query, self._slots, shift, bound)

    def insert(self, slots: I64) -> None:
        """Look at the live points again at the next query."""
        self._slots = None

    def delete(self, slots: I64) -> None:
        """Look at the live points again at the next query."""
        self._slots = None

    @property
    def bytes(self) -> int:
        """Memory of the list of live slots."""
        return 0 if self._slots is None else self._slots.nbytes
