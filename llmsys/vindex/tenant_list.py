"""What one tenant may see: a sorted list of slots, a short unsorted tail of late grants, and the tree over the list.

Removal is a binary search and a copy; a full tail is merged. Knows neither vectors nor names.
"""

from bisect import bisect_left

import numpy as np
from numpy.typing import NDArray

from llmsys.vindex.arrays import I32
from llmsys.vindex.cluster_tree import ClusterTree
from llmsys.vindex.tenant_tree import sort_keys, tenant_tree

__all__ = ["TAIL", "TenantList"]

TAIL = 64
EMPTY: I32 = np.zeros(0, np.int32)


class TenantList:
    """The slots of a tenant. `leaf` [all slots] says each slot's leaf; it is asked at every change, never kept."""

    __slots__ = ("_tree", "purged", "slots", "tail")

    def __init__(self, slots: I32 = EMPTY) -> None:
        self.slots = slots
        self.tail: list[int] = []
        self.purged = 0
        self._tree: I32 | None = None

    def __len__(self) -> int:
        return len(self.slots) + len(self.tail)

    def holds(self, slot: int, leaf: I32) -> bool:
        """Whether the tenant may see the slot."""
        return slot in self.tail or self._find(slot, leaf) >= 0

    def members(self) -> I32:
        """All slots, in no order."""
        return np.concatenate([self.slots, np.array(self.tail, np.int32)]) if self.tail else self.slots

    def add(self, slots: I32, leaf: I32) -> None:
        """Add slots [n] that the tenant does not hold."""
        if len(slots) + len(self.tail) <= TAIL:
            self.tail.extend(slots.tolist())
            return
        merged = np.concatenate([self.members(), slots])
        self.slots = merged[np.argsort(sort_keys(leaf, merged))]
        self.tail, self._tree = [], None

    def remove(self, slot: int, leaf: I32) -> None:
        """Remove a slot that the tenant holds."""
        if slot in self.tail:
            self.tail.remove(slot)
            return
        at = self._find(slot, leaf)
        assert at >= 0, "only a slot that is held is removed"
        self.slots = np.delete(self.slots, at)
        self._tree = None

    def purge(self, alive: NDArray[np.bool_], dead: int) -> None:
        """Drop the slots that `alive` [all slots] denies, unless that was done at the same number of dead slots."""
        if self.purged == dead:
            return
        self.purged = dead
        kept = alive[self.slots]
        if not kept.all():
            self.slots, self._tree = self.slots[kept], None
        self.tail = [slot for slot in self.tail if alive[slot]]

    def tree(self, clusters: ClusterTree, leaf: I32, max_shortlist: int) -> I32:
        """The tree over the sorted slots (see `tenant_tree`), kept until they change."""
        if self._tree is None:
            self._tree = tenant_tree(clusters, leaf[self.slots], max_shortlist)
        return self._tree

    def _find(self, slot: int, leaf: I32) -> int:
        """The place of a slot in the sorted list, -1 if it is not there."""
        key = (int(leaf[slot]), slot)
        at = bisect_left(self.slots, key, key=lambda other: (int(leaf[other]), int(other)))
        return at if at < len(self.slots) and self.slots[at] == slot else -1
