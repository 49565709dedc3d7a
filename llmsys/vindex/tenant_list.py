"""What one tenant may see: a sorted list of slots, a short unsorted tail of late grants, and the tree over the list.

Removal is a binary search and a copy; a full tail is merged. Arrays that a search was given never change: a change puts
new ones in their place. Knows neither vectors nor names.
"""

import sys
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from llmsys.vindex.arrays import I32
from llmsys.vindex.cluster_tree import ClusterTree
from llmsys.vindex.tenant_tree import sort_keys, tenant_tree

__all__ = ["TAIL", "Run", "TenantList"]

TAIL = 64
WORTH_TOGETHER = 16
ARRAY_BYTES, INTEGER_BYTES, RUN_ROW_BYTES = 112, 32, 280
EMPTY: I32 = np.zeros(0, np.int32)


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """What a search reads of one tenant: sorted slots [n], tail [t], records of its tree [r, 5]; it never changes.

    `row` is where these lie: address and length of each (of the records: all numbers).
    """

    slots: I32
    tail: I32
    records: I32
    row: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        parts = (self.slots, self.tail, self.records)
        assert all(one.flags.c_contiguous for one in parts), "a run of a list is contiguous"
        places = (number for one in parts for number in (one.__array_interface__["data"][0], one.size))
        object.__setattr__(self, "row", tuple(places))

    def __len__(self) -> int:
        return len(self.slots) + len(self.tail)

    def members(self) -> I32:
        """All slots, in no order."""
        return np.concatenate([self.slots, self.tail]) if len(self.tail) else self.slots


class TenantList:
    """The slots of a tenant. `leaf` [all slots] says each slot's leaf; it is asked at every change, never kept."""

    __slots__ = ("_run", "_tree", "purged", "slots", "splits", "tail")

    def __init__(self, slots: I32 = EMPTY, *, purged: int = 0, splits: int = 0) -> None:
        self.slots = slots
        self.tail: list[int] = []
        self.purged, self.splits = purged, splits
        self._tree: I32 | None = None
        self._run: Run | None = None

    def __len__(self) -> int:
        return len(self.slots) + len(self.tail)

    def holds(self, slot: int, leaf: I32) -> bool:
        """Whether the tenant may see the slot."""
        return slot in self.tail or self._find(slot, leaf) >= 0

    def held(self, slots: list[int], leaf: I32) -> list[bool]:
        """Whether the tenant may see each of some slots: many are looked up together."""
        if len(slots) < WORTH_TOGETHER:
            return [self.holds(slot, leaf) for slot in slots]
        found: list[bool] = np.isin(np.array(slots, np.int32), self.members()).tolist()
        return found

    def members(self) -> I32:
        """All slots, in no order."""
        return np.concatenate([self.slots, np.array(self.tail, np.int32)]) if self.tail else self.slots

    def add(self, slots: list[int], leaf: I32) -> None:
        """Add slots that the tenant does not hold."""
        self._run = None
        if len(slots) + len(self.tail) <= TAIL:
            self.tail.extend(slots)
            return
        self._sort(np.concatenate([self.members(), np.array(slots, np.int32)]), leaf)
        self.tail = []

    def remove(self, slot: int, leaf: I32) -> bool:
        """Remove a slot; False if the tenant does not hold it."""
        if slot in self.tail:
            self.tail.remove(slot)
        else:
            at = self._find(slot, leaf)
            if at < 0:
                return False
            self.slots, self._tree = np.concatenate([self.slots[:at], self.slots[at + 1 :]]), None
        self._run = None
        return True

    def remove_all(self, slots: list[int], leaf: I32) -> None:
        """Remove some slots, held or not; many together."""
        if len(slots) < WORTH_TOGETHER:
            for slot in slots:
                self.remove(slot, leaf)
            return
        gone = set(slots)
        self.slots = self.slots[~np.isin(self.slots, np.array(slots, np.int32))]
        self.tail = [slot for slot in self.tail if slot not in gone]
        self._tree = self._run = None

    def refresh(self, alive: NDArray[np.bool_], dead: int, leaf: I32, splits: int) -> None:
        """Drop the slots that `alive` [all slots] denies, and sort anew if leaves were split since the last time."""
        if self.purged != dead:
            kept = alive[self.slots]
            if not kept.all():
                self.slots, self._tree, self._run = self.slots[kept], None, None
            if self.tail:
                self.tail = [slot for slot in self.tail if alive[slot]]
                self._run = None
            self.purged = dead
        if self.splits != splits:
            self._sort(self.slots, leaf)
            self.splits = splits

    def run(self, clusters: ClusterTree, leaf: I32, max_shortlist: int) -> Run:
        """What a search reads, kept until something changes."""
        if self._run is None:
            tail = np.array(self.tail, np.int32)
            self._run = Run(np.ascontiguousarray(self.slots), tail, self.tree(clusters, leaf, max_shortlist))
        return self._run

    def tree(self, clusters: ClusterTree, leaf: I32, max_shortlist: int) -> I32:
        """The tree over the sorted slots (see `tenant_tree`), kept until they change."""
        if self._tree is None:
            self._tree = tenant_tree(clusters, leaf[self.slots], max_shortlist)
        return self._tree

    def list_bytes(self) -> int:
        """Memory of the list, of its tail, and of the objects that hold them."""
        run = 0 if self._run is None else sys.getsizeof(self._run) + sys.getsizeof(self._run.tail) + RUN_ROW_BYTES
        slots = self.slots.nbytes + ARRAY_BYTES
        return sys.getsizeof(self) + slots + sys.getsizeof(self.tail) + INTEGER_BYTES * len(self.tail) + run

    def tree_bytes(self) -> int:
        """Memory of the tree, if it was asked for."""
        return 0 if self._tree is None else self._tree.nbytes + ARRAY_BYTES

    def _sort(self, slots: I32, leaf: I32) -> None:
        self.slots = slots[np.argsort(sort_keys(leaf, slots), kind="stable")]
        self._tree = self._run = None

    def _find(self, slot: int, leaf: I32) -> int:
        """The place of a slot in the sorted list, -1 if it is not there."""
        wanted = int(leaf[slot])
        low, high = 0, len(self.slots)
        while low < high:
            middle = (low + high) // 2
            other = self.slots.item(middle)
            there = leaf.item(other)
            if there < wanted or (there == wanted and other < slot):
                low = middle + 1
            else:
                high = middle
        return low if low < len(self.slots) and self.slots.item(low) == slot else -1
