"""Buckets of point slots with O(1) insert, delete and uniform draw: dense arrays with swap-remove, many tables at once.

A bucket is a range of one pool that doubles by moving to the pool's end. Each (table, slot) knows its bucket and its
place in it. No representative of a bucket is stored: it would not survive a deletion. Knows no hash and no vector.
"""

import numpy as np

from llmsys.gpu.compiled import compiled
from llmsys.pse_hash.arrays import I32, I64

__all__ = ["Buckets"]

FIRST_CAPACITY = 4


@compiled
def _insert(  # noqa: PLR0917 (arrays, not settings)
    slots: I64,
    buckets: I64,
    start: I64,
    size: I64,
    room: I64,
    pool: I32,
    end: int,
    place: I32,
    home: I32,
    done: int,
) -> tuple[int, int]:
    """Put slots[i] into buckets[i, t] from pair `done` on: (pool end, pairs done), short where the pool is full."""
    tables = buckets.shape[1]
    for pair in range(done, len(slots) * tables):
        slot, table = slots[pair // tables], pair % tables
        bucket = buckets[pair // tables, pair % tables]
        if size[bucket] == room[bucket]:
            wanted = max(FIRST_CAPACITY, 2 * room[bucket])
            if end + wanted > len(pool):
                return end, pair
            for at in range(size[bucket]):
                pool[end + at] = pool[start[bucket] + at]
            start[bucket], room[bucket] = end, wanted
            end += wanted
        pool[start[bucket] + size[bucket]] = slot
        place[table, slot], home[table, slot] = size[bucket], bucket
        size[bucket] += 1
    return end, len(slots) * tables


@compiled
def _delete(slots: I64, start: I64, size: I64, pool: I32, place: I32, home: I32) -> None:
    for slot in slots:
        for table in range(len(home)):
            bucket, at = home[table, slot], place[table, slot]
            size[bucket] -= 1
            last = pool[start[bucket] + size[bucket]]
            pool[start[bucket] + at] = last
            place[table, last] = at
            home[table, slot] = -1


class Buckets:
    """`tables` partitions of the slots below `capacity`; buckets are numbered over all tables together."""

    def __init__(self, tables: int, capacity: int) -> None:
        self.start: I64 = np.zeros(0, np.int64)
        self.size: I64 = np.zeros(0, np.int64)
        self._room: I64 = np.zeros(0, np.int64)
        self.pool: I32 = np.zeros(max(64, 2 * tables * capacity), np.int32)
        self._end = 0
        self._place: I32 = np.zeros((tables, capacity), np.int32)
        self.home: I32 = np.full((tables, capacity), -1, np.int32)

    @property
    def bytes(self) -> int:
        """Memory of all arrays."""
        arrays = (self.start, self.size, self._room, self.pool, self._place, self.home)
        return sum(array.nbytes for array in arrays)

    def add_buckets(self, count: int) -> None:
        """Make `count` more empty buckets."""
        self.start, self.size, self._room = (
            np.concatenate([array, np.zeros(count, np.int64)]) for array in (self.start, self.size, self._room)
        )

    def insert(self, slots: I64, buckets: I64) -> None:
        """Put slots [m] into one bucket of each table: buckets [m, tables]."""
        self._reach(int(slots.max(initial=0)) + 1)
        done = 0
        while done < buckets.size:
            self._end, done = _insert(
                *(slots, buckets, self.start, self.size, self._room, self.pool, self._end),
                *(self._place, self.home, done),
            )
            if done < buckets.size:
                self.pool = np.concatenate([self.pool, np.zeros_like(self.pool)])

    def delete(self, slots: I64) -> None:
        """Take slots [m] out of every table: the last of each bucket moves into the hole."""
        _delete(slots, self.start, self.size, self.pool, self._place, self.home)

    def members(self, bucket: int) -> I32:
        """The slots of a bucket, in no order; a view that the next update changes."""
        start = self.start[bucket]
        return self.pool[start : start + self.size[bucket]]

    def _reach(self, slots: int) -> None:
        have = self.home.shape[1]
        if slots > have:
            more = max(slots, 2 * have) - have
            self._place = np.pad(self._place, ((0, 0), (0, more)))
            self.home = np.pad(self.home, ((0, 0), (0, more)), constant_values=-1)
