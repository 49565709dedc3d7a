"""Proof of a sketch on its own data: structure, then the share of answers within eps and within their intervals.

The judge is a float64 sum over all pairs. Knows no files.
"""

from dataclasses import asdict, dataclass

import numpy as np

from llmsys.pse_hash.arrays import F64
from llmsys.pse_hash.coins import coins
from llmsys.pse_hash.sketch import PairwiseSum

__all__ = ["Coverage", "check"]

REFUTED = 1e-3
NOISE = 0.1


@dataclass(frozen=True, slots=True)
class Coverage:
    """Of `queries` answers: how many were within eps (2 eps for net and dp), how many intervals held the truth.

    `p_value` is the chance of so many misses were the promised rate `delta` true; `refuted` where it is below 0.001.
    """

    queries: int
    within_eps: int
    covered: int
    delta: float
    worst_error: float
    p_value: float
    refuted: bool

    def record(self) -> dict[str, int | float | bool]:
        """The fields as plain values."""
        return asdict(self)


def check(sketch: PairwiseSum, *, queries: int, seed: int, ci: str = "rigorous", method: str | None = None) -> Coverage:
    """Ask near the data (points moved by NOISE of their spread) and compare with float64 sums over all pairs."""
    from scipy.stats import binom

    slots = sketch.points.live_slots()
    if not len(slots):
        return Coverage(0, 0, 0, sketch.settings.delta, 0.0, 1.0, refuted=False)
    rng = coins(seed, 0)
    values = sketch.points.values[rng.choice(slots, queries)].astype(np.float64)
    values += rng.standard_normal(values.shape) * NOISE * sketch.points.values[slots].std(axis=0)
    found = sketch.query(values + sketch.points.centre, ci=ci, method=method)
    truth = _truth(sketch, values)
    with np.errstate(invalid="ignore"):
        error = np.abs(np.expm1(np.where(truth == found.log_value, 0.0, found.log_value - truth)))
    allowed = sketch.settings.eps * (2 if sketch.settings.robust in ("net", "dp") else 1)
    small = (truth < np.log(sketch.settings.tau)) & found.below_tau
    good = (error <= allowed) | small
    held = (found.log_low <= truth + 1e-5) & (truth <= found.log_high + 1e-5)
    p_value = float(binom.sf(int((~good).sum()) - 1, queries, sketch.settings.delta))
    return Coverage(
        queries,
        int(good.sum()),
        int(held.sum()),
        sketch.settings.delta,
        float(error[~small].max(initial=0.0)),
        p_value,
        refuted=p_value < REFUTED,
    )


def _truth(sketch: PairwiseSum, queries: F64) -> F64:
    """log of the mean, in float64, without the tiles of `exact`."""
    slots = sketch.points.live_slots()
    with np.errstate(divide="ignore"):
        log_weights = np.log(sketch.points.weights[slots])
    rows = [np.logaddexp.reduce(sketch.kernel.log_row(y, sketch.points.values[slots]) + log_weights) for y in queries]
    means: F64 = np.array(rows) - np.log(len(slots))
    return means
