"""The live points: vectors, weights and ids in slots, with spare capacity and a free list.

A dead slot has weight 0. Points are kept relative to `centre`, which costs no precision far from the origin (for a
kernel of distances). Knows no kernel and no file.
"""

from collections.abc import Sequence

import numpy as np

from llmsys.pse_hash.arrays import F32, F64, I64, Numbers
from llmsys.pse_hash.faults import DimensionMismatch, DuplicateId, UnknownId

__all__ = ["PointSet", "checked_vectors"]

MIN_CAPACITY = 64


def checked_vectors(values: Numbers, dim: int | None, where: str) -> F64:
    """Vectors [n, d] as float64. Raises DimensionMismatch for another d, and for NaN and infinities."""
    wide = np.asarray(values, np.float64)
    if wide.ndim != 2 or (dim is not None and wide.shape[1] != dim):
        right = "[n, d]" if dim is None else f"[n, {dim}]"
        raise DimensionMismatch(where, f"shape {list(wide.shape)}", right)
    if not np.isfinite(wide).all():
        row = int(np.argmin(np.isfinite(wide).all(axis=1)))
        raise DimensionMismatch(f"{where}: row {row}", "NaN or infinity", "finite numbers")
    return wide


class PointSet:
    """Points by slot: `values` [capacity, d] float32 less `centre` [d], `weights` [capacity]."""

    def __init__(self, dim: int, centre: F64, capacity: int = 0) -> None:
        size = max(MIN_CAPACITY, capacity)
        self.centre = centre
        self.values: F32 = np.zeros((size, dim), np.float32)
        self.weights: F64 = np.zeros(size)
        self.live = np.zeros(size, np.bool_)
        self.ids: list[str] = []
        self.slot_of: dict[str, int] = {}
        self._free: list[int] = []

    @property
    def dim(self) -> int:
        """Numbers in a vector."""
        return int(self.values.shape[1])

    @property
    def count(self) -> int:
        """Live points."""
        return len(self.slot_of)

    @property
    def used(self) -> int:
        """Slots ever taken; live and dead ones lie below."""
        return len(self.ids)

    def live_slots(self) -> I64:
        """The slots of live points, ascending."""
        return np.flatnonzero(self.live[: self.used])

    def centred(self, queries: Numbers) -> F64:
        """Queries [q, d] in the coordinates of `values`."""
        return np.asarray(queries, np.float64) - self.centre

    def insert(self, ids: Sequence[str], values: Numbers, weights: F64) -> I64:
        """Store points; returns their slots. Raises DuplicateId before anything changes."""
        for at, one in enumerate(ids):
            if one in self.slot_of:
                raise DuplicateId(f"point {at}", f"id {one!r} is there already", "a new id, or replace")
        if len(set(ids)) < len(ids):
            raise DuplicateId("ids", "an id comes twice", "an id of its own for every point")
        slots = np.array([self._take(one) for one in ids], np.int64)
        self.values[slots] = np.asarray(values, np.float64) - self.centre
        self.weights[slots] = weights
        self.live[slots] = True
        return slots

    def delete(self, ids: Sequence[str]) -> I64:
        """Free the slots of points; returns them. Raises UnknownId before anything changes."""
        for one in ids:
            if one not in self.slot_of:
                raise UnknownId(
                    "points", f"no live point has the id {one!r}", "the id of one that has not been deleted"
                )
        slots = np.array([self.slot_of.pop(one) for one in ids], np.int64)
        self.weights[slots] = 0
        self.live[slots] = False
        self._free.extend(int(slot) for slot in slots)
        return slots

    def _take(self, one: str) -> int:
        if self._free:
            slot = self._free.pop()
            self.ids[slot] = one
        else:
            slot = self.used
            self.ids.append(one)
            if slot == len(self.values):
                self._grow()
        self.slot_of[one] = slot
        return slot

    def _grow(self) -> None:
        more = len(self.values)
        self.values = np.concatenate([self.values, np.zeros((more, self.dim), np.float32)])
        self.weights = np.concatenate([self.weights, np.zeros(more)])
        self.live = np.concatenate([self.live, np.zeros(more, np.bool_)])
