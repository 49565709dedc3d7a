"""How sure a figure is: 95 % intervals by resampling questions, and Wilson's for a share.

Questions are resampled, not answers, so that several answers to one question count as one observation, and pairs stay
pairs. Knows nothing of modes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

__all__ = ["Interval", "mean_interval", "ratio_interval", "wilson"]

RESAMPLES = 2000
SHARE = 0.95
Groups = Sequence[Sequence[float]]
"""Values by question."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and its 95 % interval over `questions`; low and high are None where there are not two questions."""

    value: float
    low: float | None
    high: float | None
    questions: int


def mean_interval(groups: Groups, *, seed: int = 0) -> Interval | None:
    """The mean over all values, questions resampled; None without any value."""
    return ratio_interval(groups, [[1.0] * len(group) for group in groups], seed=seed)


def ratio_interval(above: Groups, below: Groups, *, seed: int = 0) -> Interval | None:
    """sum(above) / sum(below), the same questions drawn for both; None where nothing stands below.

    Raises ValueError if the two are not of the same questions.
    """
    if len(above) != len(below):
        raise ValueError(f"{len(above)} questions above and {len(below)} below; expected as many")
    kept = [(math.fsum(up), math.fsum(down)) for up, down in zip(above, below, strict=True) if len(down)]
    sums = np.array(kept, dtype=np.float64).reshape(-1, 2)
    if not sums[:, 1].sum():
        return None
    value = float(sums[:, 0].sum() / sums[:, 1].sum())
    if len(sums) < 2:
        return Interval(value, None, None, len(sums))
    drawn = sums[np.random.default_rng(seed).integers(0, len(sums), (RESAMPLES, len(sums)))].sum(axis=1)
    ratios = drawn[:, 0] / np.where(drawn[:, 1] == 0, np.nan, drawn[:, 1])
    low, high = np.nanquantile(ratios, [(1 - SHARE) / 2, (1 + SHARE) / 2])
    return Interval(value, float(low), float(high), len(sums))


def wilson(hits: int, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share (Wilson 1927); (0, 1) without observations.

    >>> [round(bound, 3) for bound in wilson(8, 10)]
    [0.49, 0.943]
    """
    if count == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + SHARE) / 2)
    share, widening = hits / count, z * z / count
    middle = share + widening / 2
    half = math.sqrt(share * (1 - share) * widening + widening * widening / 4)
    return max(0.0, (middle - half) / (1 + widening)), min(1.0, (middle + half) / (1 + widening))
