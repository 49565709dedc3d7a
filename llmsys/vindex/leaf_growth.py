"""Which leaves of the clustering tree have outgrown it: sizes as vectors come in, and the size that is too large.

A leaf may hold twice what needs no split when the tree is built. One whose vectors k-means cannot part may double
before it is tried again. Splits nothing itself.
"""

from dataclasses import dataclass

import numpy as np

from llmsys.vindex.arrays import I32, I64

__all__ = ["LeafGrowth"]


@dataclass(slots=True, eq=False)
class LeafGrowth:
    """Sizes and largest sizes [leaves]; deleted vectors count until a leaf is looked at."""

    sizes: I64
    limits: I64

    @classmethod
    def of(cls, leaf: I32, leaves: int, max_leaf: int) -> "LeafGrowth":
        """Sizes of leaves whose vectors are in these leaves [n]."""
        sizes = np.bincount(leaf, minlength=leaves).astype(np.int64)
        return cls(sizes, np.maximum(2 * max_leaf, 2 * sizes * (sizes > 2 * max_leaf)))

    def add(self, leaf: I32) -> None:
        """Count vectors that came into these leaves [n]."""
        np.add.at(self.sizes, leaf, 1)

    def overfull(self, leaf: I32) -> list[int]:
        """Those of some leaves that are over their limit, the largest number first: splitting moves later ones only."""
        touched = np.unique(leaf)
        found: list[int] = touched[self.sizes[touched] > self.limits[touched]][::-1].tolist()
        return found

    def counted(self, leaf: int, size: int) -> bool:
        """Put a leaf's true size in place of its count; whether it is still over its limit."""
        self.sizes[leaf] = size
        return bool(size > self.limits[leaf])

    def refuse(self, leaf: int) -> None:
        """Let a leaf that cannot be parted grow to twice its size."""
        self.limits[leaf] = 2 * self.sizes[leaf]

    def split(self, leaf: int, sizes: list[int], max_leaf: int) -> None:
        """Put the parts of a leaf into its place."""
        self.sizes = np.concatenate([self.sizes[:leaf], sizes, self.sizes[leaf + 1 :]]).astype(np.int64)
        limits = [max(2 * max_leaf, size) for size in sizes]
        self.limits = np.concatenate([self.limits[:leaf], limits, self.limits[leaf + 1 :]]).astype(np.int64)
