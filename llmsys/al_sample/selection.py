"""Choosing k points of a design and their weights: one door to every method.

    pivotal    leverage marginals, exactly k points, spread by a tree (the default)
    leverage   the same marginals, one coin per point: k points on average
    bss        randomised BSS between barriers: a well-balanced sample
    lewis:P    pivotal with ℓ_P Lewis weights as marginals, 1 ≤ P < 4
    ridge:λ    pivotal with ridge leverage, λ added to the sum Σ v v*
    uniform    the control

Weights scale squared residuals so that they estimate the sum over the pool. Knows no labels and no files.
"""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from llmsys.al_sample.bss import Draws, gamma_of_budget, run_bss
from llmsys.al_sample.design import Design
from llmsys.al_sample.errors import BudgetTooSmall
from llmsys.al_sample.frames import Frame, frame_of, ridge_frame, score_points
from llmsys.al_sample.lewis import lewis_weights
from llmsys.al_sample.pivotal import bernoulli, marginals, pivotal
from llmsys.errors import UsageFault

__all__ = ["METHODS", "Method", "Selection", "parse_method", "select"]

METHODS = "pivotal, leverage, bss, lewis:P, ridge:LAMBDA or uniform"
CANDIDATES_PER_DIMENSION = 20

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Method:
    """A method's name and its number, None where it takes none."""

    name: str
    parameter: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """Chosen rows, sorted [k], each once. `p` is the chance to be chosen (for bss: the expected number of draws).

    `leverage` [k] is n·D·τ/n; `draws` [k] counts repetitions; `alpha`, `alpha_k` [k] are α and α·K_{D_j} where the
    method draws one after another, summed and maximal over the repetitions of a row.
    """

    index: Indices
    weight: Floats
    p: Floats
    leverage: Floats
    draws: Indices
    method: str
    seed: int
    rank: int
    alpha: Floats | None = None
    alpha_k: Floats | None = None
    notes: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.index)


def parse_method(text: str) -> Method:
    """The method that a `--method` names. Raises UsageFault that lists the known ones.

    >>> parse_method("lewis:1")
    Method(name='lewis', parameter=1.0)
    """
    name, colon, number = text.partition(":")
    try:
        if name in ("pivotal", "leverage", "bss", "uniform") and not colon:
            return Method(name)
        value = float(number)
    except ValueError:
        value = math.nan
    if (name == "lewis" and 1 <= value < 4) or (name == "ridge" and 0 < value < math.inf):
        return Method(name, value)
    raise UsageFault(f"--method {text!r}; expected {METHODS}")


def select(
    design: Design,
    k: int,
    method: str = "pivotal",
    *,
    seed: int = 0,
    exclude: Indices | None = None,
    frame: Frame | None = None,
    price: Floats | None = None,
) -> Selection:
    """Choose k points that are not in `exclude`; where no more than k are left, all of them, each with weight n·D.

    `frame` saves the first pass, or replaces it where the basis is nearly orthonormal. With `price` [n] chances go with
    score/√price. Raises BudgetTooSmall for k below the rank, UsageFault for an unknown method.
    """
    chosen = parse_method(method)
    frame = frame if frame is not None else frame_of(design)
    if chosen.name == "ridge":
        frame = ridge_frame(design, frame, chosen.parameter or 0.0)
    elif k < min(frame.rank, len(design)):
        raise BudgetTooSmall(k, frame.rank)
    scores = score_points(design, frame, coordinates=chosen.name in ("pivotal", "lewis", "ridge"), seed=seed)
    wanted = _wanted(chosen, design, scores.leverage)
    wanted = wanted if price is None else wanted / np.sqrt(price)
    if exclude is not None:
        wanted[exclude] = 0.0
    rng = np.random.default_rng([seed, 2])
    if chosen.name == "bss" and np.count_nonzero(wanted) > k:
        return _balanced(design, frame, wanted, k, seed, rng)
    p = marginals(wanted, k)
    index = bernoulli(p, rng) if chosen.name == "leverage" else pivotal(p, scores.coordinates, rng)
    weight = design.density(index) / p[index]
    ones = np.ones(len(index), np.int64)
    return Selection(index, weight, p[index], scores.leverage[index], ones, method, seed, frame.rank)


def _wanted(method: Method, design: Design, leverage: Floats) -> Floats:
    """What the chances are proportional to; 0 where D is 0."""
    if method.name == "uniform":
        return design.density(np.arange(len(design))).copy()
    if method.name == "lewis":
        return lewis_weights(design, method.parameter or 1.0)
    return leverage.copy()


def _balanced(design: Design, frame: Frame, wanted: Floats, k: int, seed: int, rng: np.random.Generator) -> Selection:
    """BSS on a leverage pre-sample (all points where they are few), until k different points were drawn."""
    d = frame.rank
    size = max(4096, math.ceil(CANDIDATES_PER_DIMENSION * (d * math.log(d + 1) + k)))
    chance = marginals(wanted, min(size, len(design)))
    rows = pivotal(chance, None, rng)
    u = frame.orthonormal(design.at(rows))
    mass = design.density(rows) / chance[rows] / len(design)
    found = run_bss(u, mass, gamma_of_budget(d, k), rng, distinct=min(k, len(rows)), batch=max(1, d // 10))
    return _merged(design, rows, u, found, seed, d)


def _merged(design: Design, rows: Indices, u: Floats, found: Draws, seed: int, rank: int) -> Selection:
    """Draws of one row made one line: weights and α added, the largest α·K kept."""
    at, place, draws = np.unique(found.index, return_inverse=True, return_counts=True)
    weight = np.asarray(np.bincount(place, found.weight, len(at)), np.float64) * len(design)
    alpha = np.asarray(np.bincount(place, found.alpha, len(at)), np.float64)
    alpha_k = np.zeros(len(at))
    np.maximum.at(alpha_k, place, found.alpha_k)
    density = design.density(rows[at])
    leverage = density * np.square(u[at]).sum(axis=1) / len(design)
    expected = density * draws / weight
    notes = (f"{found.restarts} restarts",) if found.restarts else ()
    return Selection(
        rows[at], weight, expected, leverage, draws.astype(np.int64), "bss", seed, rank, alpha, alpha_k, notes
    )
