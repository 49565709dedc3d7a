"""One copy of every vector, in slots: its numbers, code, leaf and id. Slots are given in turn and never reused.

A deleted slot stays dead until the index is compacted, so a stale list can never show another vector in its place, and
arrays that a search was given stay right while slots are added. Arrays of a snapshot are memory-mapped; the first
addition copies them. Knows no tenants.
"""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmsys.vindex.arrays import F32, I32, I64, Stored
from llmsys.vindex.cluster_tree import ClusterTree, assign
from llmsys.vindex.codes import Bytes, encode
from llmsys.vindex.metric import NUMBERS

__all__ = ["Id", "SlotStore"]

Id = int | str
COLUMNS = ("vectors", "codes", "leaf", "alive")
ALIGNED = 64
INTEGER_BYTES = 32


@dataclass(slots=True, eq=False)
class SlotStore:
    """Columns by slot; only the first `used` rows of each are slots.

    vectors [cap, d] float32 or float16, codes [cap, s] uint8 (see `codes`), leaf [cap] int32, alive [cap] bool;
    ids [cap] int64, or a list where they are text.
    """

    metric: str
    mean: F32
    vectors: Stored
    codes: Bytes
    leaf: I32
    alive: NDArray[np.bool_]
    ids: I64 | list[str]
    used: int
    dead: int = 0
    _slot_of: dict[Id, int] | None = None
    _order: I64 = field(default_factory=lambda: np.zeros(0, np.int64))

    @classmethod
    def of(cls, vectors: Stored, leaf: I32, ids: Sequence[Id], metric: str) -> "SlotStore":
        """A store of vectors [n, d] whose leaves are known."""
        mean = np.zeros(vectors.shape[1], np.float32)
        if metric == "l2" and len(vectors):
            mean = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
        codes, alive = encode(vectors, mean, metric), np.ones(len(vectors), np.bool_)
        return cls(metric, mean, vectors, codes, leaf, alive, _column(ids), len(vectors))

    @property
    def slot_of(self) -> dict[Id, int]:
        """The slot of every live id."""
        if self._slot_of is None:
            live = self.live_slots()
            self._slot_of = dict(zip(self.names(live), live.tolist(), strict=True))
        return self._slot_of

    @property
    def dtype(self) -> str:
        """How vectors are kept: one of `metric.NUMBERS`."""
        return next(name for name, kind in NUMBERS.items() if self.vectors.dtype == kind)

    @property
    def live(self) -> int:
        """Number of vectors."""
        return self.used - self.dead

    @property
    def order(self) -> I64:
        """Where each slot's id stands among all ids: ties in distance go to the smaller id."""
        if not isinstance(self.ids, list):
            return self.ids
        if len(self._order) != self.used:
            self._order = np.empty(self.used, np.int64)
            self._order[sorted(range(self.used), key=self.ids.__getitem__)] = np.arange(self.used)
        return self._order

    @property
    def id_type(self) -> type[Id] | None:
        """What its ids are; None where nothing was added yet."""
        return None if not self.used else str if isinstance(self.ids, list) else int

    def name(self, slot: int) -> Id:
        """The id of a slot."""
        return self.ids[slot] if isinstance(self.ids, list) else self.ids.item(slot)

    def names(self, slots: Iterable[int] | NDArray[Any]) -> list[Id]:
        """The ids of slots."""
        if isinstance(self.ids, list):
            return [self.ids[slot] for slot in slots]
        found: list[Id] = self.ids[np.asarray(slots, np.int64)].tolist()
        return found

    def append(self, tree: ClusterTree, ids: Sequence[Id], vectors: F32) -> I32:
        """Give new vectors [n, d] their slots [n]; an id that is live must be deleted first."""
        count, first = len(ids), self.used
        slot_of = self.slot_of
        self._reserve(first + count)
        rows = slice(first, first + count)
        self.vectors[rows] = vectors
        kept = self.rows(np.arange(first, first + count))
        self.codes[rows] = encode(kept, self.mean, self.metric)
        self.leaf[rows], self.alive[rows] = assign(tree, kept), True
        self._name(ids)
        slot_of.update(zip(ids, range(first, first + count), strict=True))
        self.used += count
        return np.arange(first, first + count, dtype=np.int32)

    def rows(self, slots: I32 | I64 | Sequence[int]) -> F32:
        """The vectors [n, d] of slots, as float32."""
        return np.ascontiguousarray(self.vectors[slots], np.float32)

    def delete(self, slots: Sequence[int]) -> None:
        """Mark live slots as dead."""
        slot_of = self.slot_of
        if not self.alive.flags.writeable:
            self.alive = self.alive.copy()
        for slot in slots:
            del slot_of[self.name(slot)]
            self.alive[slot] = False
        self.dead += len(slots)

    def live_slots(self) -> I32:
        """Every live slot, ascending."""
        return np.flatnonzero(self.alive[: self.used]).astype(np.int32)

    def id_bytes(self) -> int:
        """Memory of the ids and of the table that finds them, which the first change makes."""
        texts = sum(sys.getsizeof(one) for one in self.ids) if isinstance(self.ids, list) else 0
        column = sys.getsizeof(self.ids) if isinstance(self.ids, list) else self.ids.nbytes
        table = 0 if self._slot_of is None else sys.getsizeof(self._slot_of) + INTEGER_BYTES * len(self._slot_of)
        keys = 0 if self._slot_of is None or texts else INTEGER_BYTES * len(self._slot_of)
        return column + texts + table + keys + self._order.nbytes

    def _name(self, ids: Sequence[Id]) -> None:
        """Write the ids of the slots after the used ones."""
        if not self.used and ids and isinstance(ids[0], str):
            self.ids = []
        if isinstance(self.ids, list):
            self.ids.extend(str(one) for one in ids)
        else:
            self.ids[self.used : self.used + len(ids)] = ids

    def _reserve(self, rows: int) -> None:
        if rows <= len(self.vectors) and self.vectors.flags.writeable:
            return
        capacity = max(rows, len(self.vectors) + len(self.vectors) // 2, 64)
        for name in COLUMNS if isinstance(self.ids, list) else (*COLUMNS, "ids"):
            old: NDArray[Any] = getattr(self, name)
            new = _zeros((capacity, *old.shape[1:]), old.dtype)
            new[: self.used] = old[: self.used]
            setattr(self, name, new)


def _column(ids: Sequence[Id]) -> I64 | list[str]:
    texts = [one for one in ids if isinstance(one, str)]
    return texts if texts else np.array(ids, np.int64)


def _zeros(shape: tuple[int, ...], dtype: "np.dtype[Any]") -> NDArray[Any]:
    """Zeros whose first row starts on a cache line."""
    size = int(np.prod(shape)) * dtype.itemsize
    memory = np.zeros(size + ALIGNED, np.uint8)
    start = -memory.__array_interface__["data"][0] % ALIGNED
    return memory[start : start + size].view(dtype).reshape(shape)
