"""Random sets of failed domains, and what a count of survivals says about its chance.

Knows no placement.
"""

import numpy as np
from numpy.typing import NDArray

from llmsys.moe_train.failures import FailureModel

__all__ = ["failed_sets", "interval"]


def failed_sets(world: FailureModel, k: int, samples: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """[samples, D]: sets of exactly k failed domains, each drawn in proportion to the product of its hazards.

    Domain by domain, with the chance that the sets which fit the choices so far contain it.
    """
    domains = world.domains
    # of_size[d][s]: total weight of the sets of s among the domains from d on
    of_size = np.zeros((domains + 1, k + 1))
    of_size[domains, 0] = 1.0
    scaled = np.asarray(world.hazards) / np.mean(world.hazards) / domains
    for d in range(domains - 1, -1, -1):
        of_size[d] = of_size[d + 1]
        of_size[d, 1:] += scaled[d] * of_size[d + 1, :-1]
    failed = np.zeros((samples, domains), np.bool_)
    left = np.full(samples, k)
    for d in range(domains):
        with_it = scaled[d] * of_size[d + 1, np.maximum(left - 1, 0)]
        chance = np.where(left > 0, with_it / of_size[d, left], 0.0)
        failed[:, d] = rng.random(samples) < chance
        left -= failed[:, d]
    return failed


def interval(hits: int, trials: int, confidence: float) -> tuple[float, float]:
    """The Clopper–Pearson interval of a chance from `hits` in `trials`.

    >>> low, high = interval(0, 100, 0.95)
    >>> low, round(high, 4)
    (0.0, 0.0362)
    """
    from scipy.special import betaincinv

    tail = (1 - confidence) / 2
    low = float(betaincinv(hits, trials - hits + 1, tail)) if hits else 0.0
    high = float(betaincinv(hits + 1, trials - hits, 1 - tail)) if hits < trials else 1.0
    return low, high
