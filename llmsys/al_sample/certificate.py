"""Is a chosen sample sound? Eigenvalues of its weighted Gram matrix against the pool's, and the coefficients' sizes.

Well balanced (Chen–Price, Def. 2.1): all eigenvalues in [3/4, 5/4] and Σα ≤ 5/4. Knows no method: a selection is
judged by its rows and weights alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmsys.al_sample.design import Design
from llmsys.al_sample.frames import Frame, triangular_factor
from llmsys.al_sample.nearness import nearness_of_gram
from llmsys.al_sample.records import SelectionLine

__all__ = ["Certificate", "certify", "certify_lines", "sampled_eigenvalues"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Certificate:
    """What `check` prints. `eps_spectral` = max(1 − λmin, λmax − 1); `alpha_k_max` bounds ε/2 of the definition.

    Where the lines carry no α, α = 1/k, and α·K is taken at the chosen points only: a lower bound.
    """

    k: int
    distinct: int
    lambda_min: float
    lambda_max: float
    cond: float
    eps_spectral: float
    sum_weights: float
    alpha_sum: float
    alpha_k_max: float
    well_balanced: bool
    rho: float
    eta: float
    rank: int


def sampled_eigenvalues(frame: Frame, values: Floats, weight: Floats, n: int) -> Floats:
    """Eigenvalues [r], ascending, of (1/n)·Σ weight·v v* relative to G; `values` [k, d] are the chosen rows of A."""
    u = frame.orthonormal(values) * np.sqrt(weight / n)[:, None]
    singular = np.linalg.svd(u, compute_uv=False)
    missing = max(0, frame.rank - len(singular))
    return np.concatenate([np.zeros(missing), np.square(singular[::-1])])


def certify_lines(design: Design, frame: Frame, lines: Sequence[SelectionLine]) -> Certificate:
    """The certificate of a selection as read from a file."""
    index = np.array([line.index for line in lines], np.int64)
    weight = np.array([line.weight for line in lines])
    draws = sum(line.draws or 1 for line in lines)
    alphas = [(line.alpha, line.alpha_k) for line in lines if line.alpha is not None and line.alpha_k is not None]
    told = np.array(alphas) if len(alphas) == len(lines) else None
    return certify(design, frame, index, weight, draws=draws, alphas=told)


def certify(
    design: Design,
    frame: Frame,
    index: NDArray[np.int64],
    weight: Floats,
    *,
    draws: int | None = None,
    alphas: Floats | None = None,
) -> Certificate:
    """Judge rows `index` [k] with `weight` [k]; `alphas` [k, 2] holds α and α·K of each row where they are known."""
    values = design.at(index)
    eigenvalues = sampled_eigenvalues(frame, values, weight, len(design))
    low, high = float(eigenvalues[0]), float(eigenvalues[-1])
    if alphas is None:
        tau = np.square(frame.orthonormal(values)).sum(axis=1)
        alphas = np.stack([np.full(len(index), 1 / len(index)), weight * tau / len(design)], axis=1)
    near = nearness_of_gram(_gram(design))
    alpha_sum = float(alphas[:, 0].sum())
    return Certificate(
        k=len(index) if draws is None else draws,
        distinct=len(np.unique(index)),
        lambda_min=low,
        lambda_max=high,
        cond=high / low if low > 0 else float("inf"),
        eps_spectral=max(1 - low, high - 1),
        sum_weights=float(weight.sum()),
        alpha_sum=alpha_sum,
        alpha_k_max=float(alphas[:, 1].max()),
        well_balanced=low >= 0.75 and high <= 1.25 and alpha_sum <= 1.25 + 1e-9,
        rho=near.rho,
        eta=near.eta,
        rank=frame.rank,
    )


def _gram(design: Design) -> Floats:
    factor = triangular_factor(block for _, block in design.weighted_blocks())
    gram: Floats = factor.T @ factor / len(design)
    return gram
