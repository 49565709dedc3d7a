"""`strat` and `deann`: clusters near the query summed exactly, the rest sampled cluster by cluster.

`strat` draws a cluster in proportion to what its points may contribute (root of the second moment of the kernel, for a
gaussian spread about the centre) and 10 % uniformly; `deann` draws uniformly (DEANN, with clusters as its index).
Knows no intervals. Structure is a deterministic function of the data, so one copy is robust.
"""

import math
from dataclasses import dataclass

import numpy as np

from llmsys.pse_hash.arrays import F32, F64, I64
from llmsys.pse_hash.buckets import Buckets
from llmsys.pse_hash.kernel import Kernel
from llmsys.pse_hash.points import PointSet

__all__ = ["ClusterSampler", "Clusters"]

UNIFORM_SHARE = 0.1
NEAR_POINTS = 100
DRAW_PRICE = 6.0
DEVIATIONS = 2.6
ITERATIONS = 8
MAX_TRAINING = 64


@dataclass(slots=True)
class ClusterSampler:
    """One query: `known` holds the near clusters; the others are drawn by `odds` [c]."""

    points: PointSet
    kernel: Kernel
    buckets: Buckets
    query: F64
    rest: I64
    odds: F64
    shift: float
    known: float
    bound: float
    evals: int
    forecast: float
    available: int | None = None

    def draw(self, count: int, rng: np.random.Generator) -> F64:
        """a f exp(-shift) size / odds of a random point of a random cluster."""
        picked = np.searchsorted(np.cumsum(self.odds), rng.random(count) * self.odds.sum(), side="right")
        picked = np.minimum(picked, len(self.rest) - 1)
        bucket = self.rest[picked]
        size = self.buckets.size[bucket]
        place = self.buckets.start[bucket] + (rng.random(count) * size).astype(np.int64)
        slots = self.buckets.pool[place]
        self.evals += count
        logs = self.kernel.log_row(self.query, self.points.values[slots])
        drawn: F64 = np.exp(logs - self.shift) * self.points.weights[slots] * size / self.odds[picked]
        return drawn


class Clusters:
    """About 4 sqrt(n) k-means clusters with their sizes, spreads and radii, kept up to date in O(C d) per insert."""

    secret = False

    def __init__(self, points: PointSet, kernel: Kernel, *, seed: int, eps: float, importance: bool) -> None:
        self._points, self._kernel, self._seed, self._eps = points, kernel, seed, eps
        self._importance = importance
        self._cluster()

    def _cluster(self) -> None:
        """Cluster the live points anew."""
        slots = self._points.live_slots()
        self._changes = 0
        wanted = max(1, min(len(slots) // 4, round(4 * math.sqrt(len(slots)))))
        self.centres = _means(self._points.values[slots], wanted, self._seed)
        count = len(self.centres)
        self._spread, self._radius, self._heaviest = np.zeros(count), np.zeros(count), 0.0
        self.buckets = Buckets(1, len(self._points.values))
        self.buckets.add_buckets(count)
        self._place(slots)

    def _place(self, slots: I64) -> None:
        for start in range(0, len(slots), 4096):
            part = slots[start : start + 4096]
            squared = _squared(self._points.values[part].astype(np.float64), self.centres)
            nearest = squared.argmin(axis=1)
            gaps = self._points.values[part] - self.centres[nearest]
            distance = np.einsum("ij,ij->i", gaps, gaps)
            np.add.at(self._spread, nearest, distance)
            np.maximum.at(self._radius, nearest, np.sqrt(distance) * (1 + 1e-9))
            self._heaviest = max(self._heaviest, float(self._points.weights[part].max()))
            self.buckets.insert(part, nearest[:, None])

    def insert(self, slots: I64) -> None:
        """Put points into the clusters of their nearest centres; after n/2 changes everything is clustered anew."""
        self._changes += len(slots)
        if self._changes > max(64, self._points.count // 2):
            self._cluster()
        else:
            self._place(slots)

    def delete(self, slots: I64) -> None:
        """Take points out; a radius stays a bound."""
        home = self.buckets.home[0, slots]
        gaps = self._points.values[slots] - self.centres[home]
        np.subtract.at(self._spread, home, np.einsum("ij,ij->i", gaps, gaps))
        self.buckets.delete(slots)
        self._changes += len(slots)

    @property
    def bytes(self) -> int:
        """Memory of centres, figures and buckets."""
        return self.buckets.bytes + self.centres.nbytes + self._spread.nbytes + self._radius.nbytes

    def at(self, query: F64, copy: int) -> ClusterSampler:
        """Sum the clusters that are cheaper summed than sampled, and set odds for the rest."""
        size = self.buckets.size.astype(np.float64)
        squared = _squared(query[None], self.centres)[0]
        spread = np.maximum(self._spread, 0) / np.maximum(size, 1)
        first, second = self._moments(query, squared, spread)
        most = self._most(query, squared)
        filled = np.flatnonzero(size > 0)
        shift = float(most[filled].max()) if len(filled) else 0.0
        weigh = np.log(size[filled]) + 0.5 * second[filled] if self._importance else -squared[filled]
        order = filled[np.argsort(-weigh, kind="stable")]
        share = size[order] * np.exp(0.5 * second[order] - shift)
        mean = float((size[order] * np.exp(first[order] - shift)).sum())
        near, draws = self._split(size[order], share, mean)
        slots = np.concatenate([self.buckets.members(int(one)) for one in order[:near]] or [np.zeros(0, np.int32)])
        logs = self._kernel.log_row(query, self._points.values[slots])
        known = float((np.exp(logs - shift) * self._points.weights[slots]).sum())
        rest = order[near:]
        odds = _odds(share[near:] if self._importance else size[rest], size[rest])
        tops = np.exp(most[rest] - shift) * self._heaviest * size[rest] / odds if len(rest) else np.zeros(1)
        evals = len(self.centres) + len(slots)
        return ClusterSampler(
            *(self._points, self._kernel, self.buckets, query, rest, odds),
            *(shift, known, float(tops.max()), evals, evals + DRAW_PRICE * draws),
        )

    def _moments(self, query: F64, squared: F64, spread: F64) -> tuple[F64, F64]:
        """log E[f] and log E[f^2] over a cluster, as if its points were spread as a gaussian about the centre."""
        kernel, dim = self._kernel, max(1, len(query))
        if kernel.name == "gaussian":
            wide, variance = kernel.scale**2, spread / dim
            return tuple(  # type: ignore[return-value]
                0.5 * dim * np.log(w / (w + variance)) - squared / (2 * (w + variance)) for w in (wide, wide / 2)
            )
        if kernel.name == "dot":
            inner = kernel.scale * (self.centres @ query)
            extra = 0.5 * kernel.scale**2 * float(query @ query) * spread / dim
            return inner + extra, 2 * inner + 4 * extra
        gap = np.sqrt(squared + spread)
        logs = kernel.log_at_distance(gap * math.sqrt(2 * dim / math.pi) if kernel.name == "laplacian" else gap)
        return logs, 2 * logs

    def _most(self, query: F64, squared: F64) -> F64:
        """An upper bound of log f in each cluster."""
        if self._kernel.uses_distance:
            return self._kernel.log_at_distance(np.maximum(np.sqrt(squared) - self._radius, 0))
        inner: F64 = self._kernel.scale * (self.centres @ query + float(np.linalg.norm(query)) * self._radius)
        return inner

    def _split(self, size: F64, share: F64, mean: float) -> tuple[int, float]:
        """How many clusters, in order, to sum exactly, and the draws that the rest then needs for `eps`."""
        rest = np.append(np.cumsum(share[::-1])[::-1], 0.0)
        draws = np.square(rest * DEVIATIONS / (self._eps * max(mean, 1e-300)))
        exact = np.append(0.0, np.cumsum(size))
        if self._importance:
            near = int(np.argmin(exact + DRAW_PRICE * draws))
        else:
            near = int(np.searchsorted(exact, NEAR_POINTS))
        near = min(near, len(size))
        return near, float(min(draws[near], 1e12))


def _odds(share: F64, size: F64) -> F64:
    """Chances in proportion to the shares, UNIFORM_SHARE of them to the sizes; they add up to 1."""
    if not len(size):
        return size
    uniform = size / size.sum()
    total = float(share.sum())
    odds: F64 = UNIFORM_SHARE * uniform + (1 - UNIFORM_SHARE) * (share / total if total > 0 else uniform)
    return odds


def _squared(queries: F64, centres: F64) -> F64:
    size = np.einsum("ij,ij->i", queries, queries)[:, None] + np.einsum("ij,ij->i", centres, centres)[None]
    squared: F64 = np.maximum(size - 2 * (queries @ centres.T), 0)
    return squared


def _means(values: F32, count: int, seed: int) -> F64:
    """k-means centres by faiss. Raises Unavailable where it is missing."""
    if not len(values):
        return np.zeros((1, values.shape[1]))
    if count >= len(values):
        return np.asarray(values, np.float64)
    from llmsys.gpu import require

    means = require("faiss").Kmeans(
        values.shape[1],
        count,
        niter=ITERATIONS,
        seed=seed,
        min_points_per_centroid=1,
        max_points_per_centroid=MAX_TRAINING,
    )
    means.train(np.ascontiguousarray(values))
    return np.asarray(means.centroids, np.float64)
