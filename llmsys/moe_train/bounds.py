"""A chance of recovery that no placement of given replicas exceeds.

MRO attains it where its last segment is whole (Lazarus, Theorem 1, which is too strong as stated: a truncated last
segment has counterexamples). Knows no placement.
"""

from collections.abc import Sequence

from numpy.typing import ArrayLike

from llmsys.moe_train.placement import segment_sizes
from llmsys.moe_train.recovery import mro_recovery

__all__ = ["recovery_bound"]


def recovery_bound(r: ArrayLike, nodes: int, slots: int, counts: Sequence[int]) -> dict[int, float]:
    """For every k in `counts`, an upper bound of P(k) over all placements of the replicas r [E], nodes failing alike.

    A truncated last group is left out: survivors that hold all other groups' experts are no rarer, and those experts
    alone are placed best by their segments. Too few surviving slots for all experts make the bound 0.

    >>> recovery_bound([2, 3, 3], nodes=4, slots=2, counts=[2])
    {2: 0.8333333333333334}
    """
    sizes, whole = segment_sizes(r, nodes, slots)
    experts = len(list(r))  # type: ignore[arg-type]
    counted = sizes if whole else sizes[:-1]
    return {k: mro_recovery(counted, nodes, k) if (nodes - k) * slots >= experts else 0.0 for k in counts}
