"""Randomised BSS: points drawn one after another between two moving barriers (Lee–Sun; Chen–Price, COLT 2019, Alg. 1).

u [n, d] holds values orthonormal under D, or nearly so. Each draw adds a multiple of u(x)u(x)* to B, which stays
between low·I and high·I; at the end B/Σ(γ/Φ) is close to I with O(d/ε) draws, without the logarithm that independent
draws need. Constants are re-derived in the specification and checked by tests. Knows no pool and no label.
"""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["BSS", "Draws", "gamma_of_budget", "gamma_of_eps", "run_bss"]

MAX_GAMMA = 0.9
DRAWS_PER_LABEL = 1.5
MAX_RESTARTS = 20
PATIENCE = 50

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


def gamma_of_eps(eps: float, c0: float = 3.0) -> float:
    """γ = √ε/C0: well balanced needs C0 ≥ √2, eigenvalues in [3/4, 5/4] need
    about 3 and ε ≤ 0.15 (38 of 40 runs and more on the pools of the tests). Raises ValueError if γ ≥ 1."""
    gamma = math.sqrt(eps) / c0
    if not 0 < gamma < 1:
        raise ValueError(f"eps {eps} with C0 {c0} gives gamma {gamma}; expected above 0 and below 1")
    return gamma


def gamma_of_budget(d: int, k: int) -> float:
    """γ = √(1.5·d/k), at most 0.9: about k draws reach the end."""
    return min(MAX_GAMMA, math.sqrt(DRAWS_PER_LABEL * d / k))


@dataclass(slots=True, eq=False)
class BSS:
    """The state of one run in dimension d: B [d, d] and the barriers around it."""

    d: int
    gamma: float
    matrix: Floats = field(init=False)
    low: float = field(init=False)
    high: float = field(init=False)
    mid: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        if not 0 < self.gamma < 1:
            raise ValueError(f"gamma {self.gamma}; expected above 0 and below 1")
        self.matrix = np.zeros((self.d, self.d))
        self.low, self.high = -2 * self.d / self.gamma, 2 * self.d / self.gamma

    @property
    def done(self) -> bool:
        """Whether the barriers are 8d/γ apart."""
        return self.high - self.low >= 8 * self.d / self.gamma

    @property
    def inside(self) -> bool:
        """Whether low·I ≺ B ≺ high·I: always at first, with high probability after every step."""
        values = np.linalg.eigvalsh(self.matrix)
        return bool(self.low < values[0] and values[-1] < self.high)

    def potentials(self) -> tuple[Floats, float]:
        """M = (high·I − B)⁻¹ + (B − low·I)⁻¹ as a square root [d, d] (M = S S*), and Φ = tr M."""
        values, vectors = np.linalg.eigh(self.matrix)
        diagonal = 1 / (self.high - values) + 1 / (values - self.low)
        return vectors * np.sqrt(diagonal), float(diagonal.sum())

    def step(self, u: Floats, mass: Floats, rng: np.random.Generator, draws: int = 1) -> "Draws":
        """Draw `draws` points with M held fixed, add them to B and move the barriers as far.

        u [n, d]; mass [n] is D(x). Weights and α are still to be divided by the final `mid`.
        """
        root, phi = self.potentials()
        gain = np.square(u @ root).sum(axis=1)
        cumulative = np.cumsum(mass * gain)
        at = np.searchsorted(cumulative, rng.random(draws) * cumulative[-1], side="right")
        index = np.minimum(at, len(u) - 1).astype(np.int64)
        ratio = cumulative[-1] / gain[index]  # D(x)/D_j(x); the sum is Φ where u is orthonormal
        share = self.gamma / phi
        self.matrix += (u[index] * (share * ratio)[:, None]).T @ u[index]
        self.high += draws * share / (1 - self.gamma)
        self.low += draws * share / (1 + self.gamma)
        self.mid += draws * share
        # α·K of the step's distribution: max over all points of (D/D_j)·‖u‖²
        worst = float((np.square(u).sum(axis=1)[gain > 0] / gain[gain > 0]).max()) * float(cumulative[-1])
        return Draws(index, share * ratio, np.full(draws, share), np.full(draws, share * worst))


@dataclass(frozen=True, slots=True, eq=False)
class Draws:
    """Drawn rows [m] with repetitions, their weights (Σ ≈ 1), α, and α·K of the distribution of each draw."""

    index: Indices
    weight: Floats
    alpha: Floats
    alpha_k: Floats
    restarts: int = 0


def run_bss(
    u: Floats, mass: Floats, gamma: float, rng: np.random.Generator, *, distinct: int | None = None, batch: int = 1
) -> Draws:
    """Draw until the barriers are far enough apart, or, with `distinct`, until so many different rows were drawn.

    `batch` points share one eigendecomposition. A run that leaves its barriers starts again; `restarts` counts that.
    Raises ValueError for more `distinct` rows than carry mass, and RuntimeError after MAX_RESTARTS.
    """
    reachable = int(np.count_nonzero((mass > 0) & (np.square(u).sum(axis=1) > 0)))
    if distinct is not None and distinct > reachable:
        raise ValueError(f"{distinct} distinct rows of {reachable} with mass; expected at most as many")
    for restarts in range(MAX_RESTARTS):
        state = BSS(u.shape[1], gamma)
        found = _one_run(state, u, mass, rng, distinct, batch)
        if found is not None:
            parts = (np.concatenate([getattr(one, name) for one in found]) for name in ("index", "weight"))
            index, weight = parts
            alpha, alpha_k = (np.concatenate([getattr(one, name) for one in found]) for name in ("alpha", "alpha_k"))
            return Draws(index, weight / state.mid, alpha / state.mid, alpha_k / state.mid, restarts)
    raise RuntimeError(f"{MAX_RESTARTS} runs left their barriers at gamma {gamma}")


def _one_run(
    state: BSS, u: Floats, mass: Floats, rng: np.random.Generator, distinct: int | None, batch: int
) -> list[Draws] | None:
    """The steps of a run, None if B left the barriers. A run for distinct rows gives up its patience, not its count."""
    found: list[Draws] = []
    seen: set[int] = set()
    while len(seen) < distinct if distinct is not None else not state.done:
        missing = batch if distinct is None else min(batch, distinct - len(seen))
        found.append(state.step(u, mass, rng, missing))
        if not state.inside:
            return None
        seen.update(found[-1].index.tolist())
        if distinct is not None and len(found) * batch > PATIENCE * distinct:
            break
    return found
