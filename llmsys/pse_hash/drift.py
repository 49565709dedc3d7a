"""Drift between two sketches: squared maximum mean discrepancy, a permutation test, and the points behind it.

Gretton et al., A kernel two-sample test, 2012: unbiased MMD^2. Weights are not used. Knows no files.
"""

from dataclasses import dataclass

import numpy as np

from llmsys.errors import UsageFault
from llmsys.pse_hash.arrays import F64
from llmsys.pse_hash.coins import coins
from llmsys.pse_hash.faults import DimensionMismatch
from llmsys.pse_hash.sketch import PairwiseSum

__all__ = ["Drift", "compare"]

MOST_ROWS = 2000
NAMED = 10


@dataclass(frozen=True, slots=True)
class Drift:
    """MMD^2 of `rows` points of each side, its p-value, and the ids that speak most for their own side."""

    mmd2: float
    p_value: float
    permutations: int
    rows: tuple[int, int]
    most_a: tuple[str, ...]
    most_b: tuple[str, ...]


def compare(a: PairwiseSum, b: PairwiseSum, *, permutations: int, seed: int) -> Drift:
    """Test whether two sketches' points come from one distribution; at most MOST_ROWS random points of each are used.

    The p-value (1 + #{at least as large}) / (1 + permutations) is exact under the null. Raises UsageFault for different
    kernels or fewer than two points, DimensionMismatch for different d.
    """
    if a.kernel != b.kernel:
        raise UsageFault(f"kernels {a.kernel} and {b.kernel}; expected sketches of one kernel and bandwidth")
    if a.points.dim != b.points.dim:
        raise DimensionMismatch("compare", f"{a.points.dim} and {b.points.dim} numbers a vector", "one dimension")
    if min(a.count, b.count) < 2:
        raise UsageFault(f"{a.count} and {b.count} points; expected two and more in each sketch")
    rng = coins(seed, 0)
    sides = [_sample(one, rng) for one in (a, b)]
    (names_a, x), (names_b, y) = sides
    pooled = np.concatenate([x, y])
    centre = pooled.mean(axis=0) if a.kernel.uses_distance else np.zeros(a.points.dim)
    logs = a.kernel.log_pairs(pooled - centre, pooled - centre)
    gram = np.exp(logs - (logs.max() if not a.kernel.uses_distance else 0.0))
    np.fill_diagonal(gram, 0)
    first = np.arange(len(pooled)) < len(x)
    found = _mmd2(gram, first)
    reached = sum(_mmd2(gram, rng.permutation(first)) >= found for _ in range(permutations))
    witness = gram @ first / len(x) - gram @ ~first / len(y)
    most_a = np.argsort(-witness[: len(x)], kind="stable")[:NAMED]
    most_b = np.argsort(witness[len(x) :], kind="stable")[:NAMED]
    return Drift(
        mmd2=found,
        p_value=(1 + reached) / (1 + permutations),
        permutations=permutations,
        rows=(len(x), len(y)),
        most_a=tuple(names_a[at] for at in most_a.tolist()),
        most_b=tuple(names_b[at] for at in most_b.tolist()),
    )


def _sample(sketch: PairwiseSum, rng: np.random.Generator) -> tuple[list[str], F64]:
    slots = sketch.points.live_slots()
    picked = np.sort(rng.permutation(slots)[:MOST_ROWS])
    values = sketch.points.values[picked].astype(np.float64) + sketch.points.centre
    return [sketch.points.ids[slot] for slot in picked.tolist()], values


def _mmd2(gram: F64, first: "np.ndarray[tuple[int], np.dtype[np.bool_]]") -> float:
    """Unbiased MMD^2 from a Gram matrix whose diagonal is 0, for one division of its rows."""
    sign = first.astype(np.float64)
    other = 1 - sign
    m, n = sign.sum(), other.sum()
    rows = gram @ sign
    within_a, across = float(sign @ rows), float(other @ rows)
    within_b = float(gram.sum()) - within_a - 2 * across
    return float(within_a / (m * (m - 1)) + within_b / (n * (n - 1)) - 2 * across / (m * n))
