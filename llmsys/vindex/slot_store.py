"""One copy of every vector, in slots: its numbers, code, leaf and id. Slots are given in turn and never reused.

A deleted slot stays dead until the index is compacted, so a stale list can never show another vector in its place.
Arrays of a snapshot are memory-mapped; the first addition copies them. Knows no tenants.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmsys.vindex.arrays import F32, I32, I64
from llmsys.vindex.cluster_tree import ClusterTree, assign
from llmsys.vindex.codes import encode

__all__ = ["Id", "SlotStore"]

Id = int | str


@dataclass(slots=True, eq=False)
class SlotStore:
    """Columns by slot; only the first `used` rows of each are slots.

    vectors [cap, d] float32, codes [cap, d] int8, scale, bias [cap] float32, leaf [cap] int32, alive [cap] bool.
    """

    metric: str
    mean: F32
    vectors: F32
    codes: NDArray[np.int8]
    scale: F32
    bias: F32
    leaf: I32
    alive: NDArray[np.bool_]
    ids: list[Id]
    used: int
    dead: int = 0
    _slot_of: dict[Id, int] | None = None
    _order: I64 = field(default_factory=lambda: np.zeros(0, np.int64))

    @classmethod
    def of(cls, vectors: F32, leaf: I32, ids: Sequence[Id], metric: str) -> "SlotStore":
        """A store of vectors [n, d] whose leaves are known."""
        mean = np.zeros(vectors.shape[1], np.float32)
        if metric == "l2" and len(vectors):
            mean = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
        code = encode(vectors, mean, metric)
        alive = np.ones(len(vectors), np.bool_)
        return cls(metric, mean, vectors, code.code, code.scale, code.bias, leaf, alive, list(ids), len(vectors))

    @property
    def slot_of(self) -> dict[Id, int]:
        """The slot of every live id."""
        if self._slot_of is None:
            self._slot_of = {one: slot for slot, one in enumerate(self.ids) if self.alive[slot]}
        return self._slot_of

    @property
    def live(self) -> int:
        """Number of vectors."""
        return self.used - self.dead

    @property
    def order(self) -> I64:
        """Where each slot's id stands among all ids: ties in distance go to the smaller id."""
        if len(self._order) != self.used:
            if all(isinstance(one, int) for one in self.ids):
                self._order = np.array(self.ids, np.int64)
            else:
                self._order = np.empty(self.used, np.int64)
                self._order[sorted(range(self.used), key=lambda slot: str(self.ids[slot]))] = np.arange(self.used)
        return self._order

    def append(self, tree: ClusterTree, ids: Sequence[Id], vectors: F32) -> I32:
        """Give new vectors [n, d] their slots [n]; an id that is live must be deleted first."""
        count, first = len(ids), self.used
        self._reserve(first + count)
        code = encode(vectors, self.mean, self.metric)
        rows = slice(first, first + count)
        self.vectors[rows], self.codes[rows] = vectors, code.code
        self.scale[rows], self.bias[rows] = code.scale, code.bias
        self.leaf[rows], self.alive[rows] = assign(tree, vectors), True
        slot_of = self.slot_of
        self.ids.extend(ids)
        slot_of.update(zip(ids, range(first, first + count), strict=True))
        self.used += count
        return np.arange(first, first + count, dtype=np.int32)

    def delete(self, slots: Sequence[int]) -> None:
        """Mark live slots as dead."""
        slot_of = self.slot_of
        if not self.alive.flags.writeable:
            self.alive = self.alive.copy()
        for slot in slots:
            del slot_of[self.ids[slot]]
            self.alive[slot] = False
        self.dead += len(slots)

    def live_slots(self) -> I32:
        """Every live slot, ascending."""
        return np.flatnonzero(self.alive[: self.used]).astype(np.int32)

    def _reserve(self, rows: int) -> None:
        if rows <= len(self.vectors) and self.vectors.flags.writeable:
            return
        capacity = max(rows, len(self.vectors) + len(self.vectors) // 2, 64)
        for name in ("vectors", "codes", "scale", "bias", "leaf", "alive"):
            old: NDArray[Any] = getattr(self, name)
            new = np.zeros((capacity, *old.shape[1:]), old.dtype)
            new[: self.used] = old[: self.used]
            setattr(self, name, new)
