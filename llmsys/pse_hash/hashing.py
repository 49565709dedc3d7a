"""Hashing-based estimators over dynamic, multi-resolution tables (Charikar & Siminelakis 2017, 2019; Adam-Hash).

Draw r of a query looks into table r of every resolution, takes a random point X_t of the query's bucket B_t, and gives
sum_t |B_t| a f(X_t) p_t / sum_s p_s^2. Insert and delete cost O(1) per table after hashing. The hash functions are a
secret that answers leak: see `robust`. Knows no intervals.
"""

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np

from llmsys.gpu.compiled import compiled
from llmsys.pse_hash.arrays import F64, I64, Numbers
from llmsys.pse_hash.buckets import Buckets
from llmsys.pse_hash.coins import coins
from llmsys.pse_hash.families import NO_BUCKET, Family, Hasher, families_for
from llmsys.pse_hash.kernel import Kernel
from llmsys.pse_hash.points import PointSet
from llmsys.pse_hash.resolution import chosen, log_shares
from llmsys.pse_hash.sampler import largest_log

__all__ = ["HashSampler", "HashTables"]

TRIAL_QUERIES, TRIAL_POINTS = 24, 512
HASH_SEED = 2**61
PROFILE = 1024
SLACK = 1.02


@compiled
def _numbered(names: Any, keys: I64, add: bool) -> I64:  # noqa: ANN401
    """The bucket of every (row, table) key; unknown ones get the next number with `add`, else -1."""
    found = np.empty(keys.shape, np.int64)
    for row in range(keys.shape[0]):
        for table in range(keys.shape[1]):
            name = (keys[row, table], table)
            if name in names:
                found[row, table] = names[name]
            elif add:
                found[row, table] = len(names)
                names[name] = len(names)
            else:
                found[row, table] = -1
    return found


class _Copy:
    """One independent draw of all hash functions, with its buckets: tables are numbered family by family."""

    def __init__(self, families: tuple[Family, ...], dim: int, tables: int, seed: int, copy: int, room: int) -> None:
        rng = coins(seed, HASH_SEED, copy)
        self._hashers: list[Hasher] = [family.drawn(dim, tables, rng) for family in families]
        self.buckets = Buckets(tables * len(families), room)
        kind = numba.types.UniTuple(numba.int64, 2)
        self._names = numba.typed.Dict.empty(kind, numba.int64)

    def insert(self, values: Numbers, slots: I64) -> None:
        numbers = _numbered(self._names, self._keys(values, asked=False), True)
        self.buckets.add_buckets(len(self._names) - len(self.buckets.size))
        self.buckets.insert(slots, numbers)

    def met(self, query: F64) -> I64:
        """The query's bucket in every table, -1 for none."""
        numbers: I64 = _numbered(self._names, self._keys(query[None], asked=True), False)[0]
        return numbers

    def _keys(self, values: Numbers, *, asked: bool) -> I64:
        keys = np.concatenate([hasher.keys(values, asked=asked) for hasher in self._hashers], axis=1)
        return np.where(keys == NO_BUCKET, np.int64(-1), keys)


@dataclass(slots=True)
class HashSampler:
    """One query over one copy: draw r uses table r of each family, so there are as many draws as tables."""

    points: PointSet
    kernel: Kernel
    families: tuple[Family, ...]
    buckets: Buckets
    query: F64
    met: I64
    shift: float
    bound: float
    evals: int
    available: int | None
    known: float = 0.0
    forecast: float = 1.0
    taken: int = 0

    def draw(self, count: int, rng: np.random.Generator) -> F64:
        """The next `count` tables of each family: sum over families of |B| a f p / sum p^2 at a random point of B."""
        rows = slice(self.taken, self.taken + count)
        self.taken += count
        bucket = self.met.reshape(len(self.families), -1)[:, rows]
        size = np.where(bucket >= 0, self.buckets.size[bucket], 0)
        family, draw = np.nonzero(size)
        hit = bucket[family, draw]
        place = self.buckets.start[hit] + (rng.random(len(hit)) * self.buckets.size[hit]).astype(np.int64)
        slots = self.buckets.pool[place]
        values = self.points.values[slots]
        log_p = np.array([one.log_probability(self.query, values) for one in self.families])
        shares = log_shares(log_p)[family, np.arange(len(hit))]
        logs = self.kernel.log_row(self.query, values) - self.shift + shares
        drawn = np.zeros(bucket.shape[1])
        np.add.at(drawn, draw, np.exp(logs) * self.points.weights[slots] * size[family, draw])
        self.evals += len(hit)
        return drawn


class HashTables:
    """`tables` tables per family and copy; the families are chosen once, for the points there are at first."""

    secret = True

    def __init__(self, points: PointSet, kernel: Kernel, *, tables: int, seed: int) -> None:
        self._points, self._kernel, self._tables, self._seed = points, kernel, tables, seed
        self._copies: dict[int, _Copy] = {}
        self._farthest: float | None = None
        self.families = self._choose()

    def _choose(self) -> tuple[Family, ...]:
        candidates = families_for(self._kernel)
        slots = self._points.live_slots()
        if len(candidates) == 1 or len(slots) < 2:
            return candidates[:1]
        rng = coins(self._seed, HASH_SEED + 1)
        values = self._points.values[rng.permutation(slots)].astype(np.float64)
        sample, queries = values[:TRIAL_POINTS], values[-min(TRIAL_QUERIES, len(values) // 2) :]
        return chosen(candidates, queries, sample, self._kernel.log_pairs(queries, sample))

    def at(self, query: F64, copy: int) -> HashSampler:
        """Hash the query in one copy, which is made when it is first asked for."""
        if copy not in self._copies:
            self._copies[copy] = self._made(copy)
        one = self._copies[copy]
        met = one.met(query)
        shift, bound = self._limits(query)
        spent = len(self.families) * self._tables
        return HashSampler(
            *(self._points, self._kernel, self.families, one.buckets, query, met),
            *(shift, bound, spent, self._tables),
        )

    def _made(self, copy: int) -> _Copy:
        made = _Copy(self.families, self._points.dim, self._tables, self._seed, copy, len(self._points.values))
        slots = self._points.live_slots()
        for start in range(0, len(slots), 4096):
            part = slots[start : start + 4096]
            made.insert(self._points.values[part], part)
        return made

    def _limits(self, query: F64) -> tuple[float, float]:
        """(shift, bound of a draw): n times the largest a f p / sum p^2 of any point at all, family by family."""
        weights, reach = self._points.weights, self._reach()
        logs, log_p = self._profile(query, reach)
        shift = largest_log(self._kernel, query, reach)
        most = np.exp((logs - shift + log_shares(log_p)).max(axis=1)).sum()
        return shift, float(most * SLACK * weights.max(initial=0.0) * self._points.count)

    def _profile(self, query: F64, reach: float) -> tuple[F64, F64]:
        """log f (from above) and log p of every family over the distances, or angles, at which points can lie."""
        dim, norm = len(query), float(np.linalg.norm(query))
        line = np.zeros((PROFILE, dim))
        if self._kernel.uses_distance:
            line[:, 0] = np.linspace(max(0.0, norm - reach), norm + reach, PROFILE)
            log_p = np.array([family.log_probability(np.zeros(dim), line) for family in self.families])
            return self._kernel.log_at_distance(line[:, 0]), log_p
        angles = np.linspace(0, np.pi, PROFILE)
        line[:, 0], axis = np.cos(angles), np.zeros(dim)
        axis[0] = 1.0
        line[:, -1] += np.sin(angles)
        log_p = np.array([family.log_probability(axis, line) for family in self.families])
        return self._kernel.scale * norm * reach * np.maximum(np.cos(angles), 0), log_p

    def _reach(self) -> float:
        """The largest norm of a live point, kept as a bound through deletions."""
        if self._farthest is None:
            values = self._points.values[self._points.live_slots()]
            self._farthest = float(np.sqrt(np.einsum("ij,ij->i", values, values, dtype=np.float64).max(initial=0.0)))
        return self._farthest

    def insert(self, slots: I64) -> None:
        """Hash the points into every copy."""
        values = self._points.values[slots]
        largest = float(np.sqrt(np.einsum("ij,ij->i", values, values, dtype=np.float64).max(initial=0.0)))
        self._farthest = None if self._farthest is None else max(self._farthest, largest)
        for copy in self._copies.values():
            copy.insert(self._points.values[slots], slots)

    def delete(self, slots: I64) -> None:
        """Swap-remove the points from every copy; nothing is hashed."""
        for copy in self._copies.values():
            copy.buckets.delete(slots)

    @property
    def bytes(self) -> int:
        """Memory of all tables of all copies."""
        return sum(copy.buckets.bytes for copy in self._copies.values())
