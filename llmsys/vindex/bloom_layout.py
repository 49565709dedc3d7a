"""The paper's own layout (Curator, arXiv 2401.07119 and 2601.01291, section 3): filters and shortlists in the nodes.

Every node of the cluster tree has a Bloom filter of the tenants below it; a table finds the shortlist of a node and a
tenant. A search walks best-first by centroid and ends, by the rule of the second version, at the first leaf that brings
nothing among the `ef` best. Scores are exact, in float64. It is the yardstick of `bench`: the index itself uses runs.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmsys.gpu.compiled import compiled
from llmsys.vindex.arrays import F32, F64, I32, I64
from llmsys.vindex.ranking import Halves, exact_score, place
from llmsys.vindex.state import State, compacted
from llmsys.vindex.tenant_tree import CHILDREN, END, NODE, START

__all__ = ["BITS", "CAPACITY", "HASHES", "BloomLayout", "bulk_layout", "holds", "insert"]

CAPACITY = 1000
BITS, HASHES = 9586, 7
WORDS = -(-BITS // 64)
FREE = -1

Words = NDArray[np.uint64]


@dataclass(frozen=True, slots=True, eq=False)
class BloomLayout:
    """Filters [nodes, WORDS]; the table of shortlists, keys [size] and spans [size, 2]; the slots of all of them."""

    state: State
    vectors: F32
    tenants: dict[str, int]
    filters: Words
    keys: I64
    spans: I64
    slots: I32

    @property
    def bytes(self) -> int:
        """Memory beside vectors and the cluster tree."""
        return sum(part.nbytes for part in (self.filters, self.keys, self.spans, self.slots))

    def shortlists(self) -> Iterator[tuple[int, str, list[int]]]:
        """Node, tenant and slots of every shortlist."""
        names = list(self.tenants)
        for key, (start, end) in zip(self.keys.tolist(), self.spans.tolist(), strict=True):
            if key != FREE:
                yield key >> 32, names[key & 0xFFFFFFFF], self.slots[start:end].tolist()

    def search(self, query: F32, tenant: str, k: int, ef: int) -> I32:
        """The slots [<= k] nearest to a query [d] among those visited, nearest first; ef >= k."""
        number = self.tenants.get(tenant)
        if number is None:
            return np.zeros(0, np.int32)
        store, clusters = self.state.store, self.state.clusters
        found, score = np.full(ef, -1, np.int32), np.full(ef, np.inf)
        none = np.zeros((0, store.vectors.shape[1]), np.uint16)
        count = _walk(
            query, number, clusters.centroids, clusters.first_child, clusters.children, self.filters, self.keys,
            self.spans, self.slots, self.vectors, none, store.order, store.metric == "l2", found, score,
        )  # fmt: skip
        return found[: min(k, count)]


def bulk_layout(state: State) -> BloomLayout:
    """The layout of all grants of a state, each tenant's granted at the root at once."""
    state = compacted(state)
    clusters, children = state.clusters, state.clusters.children
    parent = np.full(len(children), -1, np.int64)
    for node in np.flatnonzero(children).tolist():
        parent[int(clusters.first_child[node]) :][: int(children[node])] = node
    filters = np.zeros((len(parent), WORDS), np.uint64)
    tenants = {name: number for number, name in enumerate(state.tenants())}
    shortlists, at = list[tuple[int, int, int]](), 0
    for name, number in tenants.items():
        records = state.lists[name].tree(clusters, state.store.leaf, state.shape.max_shortlist)
        for node, start, end in records[records[:, CHILDREN] == 0][:, [NODE, START, END]].tolist():
            shortlists.append((node << 32 | number, at + start, at + end))
            above = node
            while above >= 0:
                insert(filters[above], number)
                above = int(parent[above])
        at += len(state.lists[name])
    slots = np.concatenate([np.zeros(0, np.int32), *(state.lists[name].slots for name in tenants)])
    return BloomLayout(
        state, state.store.vectors.astype(np.float32, copy=False), tenants, filters, *_table(shortlists), slots
    )


def _table(shortlists: list[tuple[int, int, int]]) -> tuple[I64, I64]:
    """Keys and spans under open addressing, at most half full."""
    size = 1 << max(1, (2 * len(shortlists) + 1).bit_length())
    keys, spans = np.full(size, FREE, np.int64), np.zeros((size, 2), np.int64)
    for key, start, end in shortlists:
        at = _find(keys, key)
        keys[at], spans[at] = key, (start, end)
    return keys, spans


@compiled
def _mixed(number: int) -> np.uint64:
    """A well spread hash of a number (splitmix64)."""
    word = np.uint64(number) + np.uint64(0x9E3779B97F4A7C15)
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))


@compiled
def insert(bloom: Words, tenant: int) -> None:
    """Put a tenant's number into a filter [WORDS]."""
    one = _mixed(tenant)
    step = _mixed(tenant + (1 << 40)) | np.uint64(1)
    for _ in range(HASHES):
        bit = one % np.uint64(BITS)
        bloom[bit >> np.uint64(6)] |= np.uint64(1) << (bit & np.uint64(63))
        one += step


@compiled
def holds(bloom: Words, tenant: int) -> bool:
    """Whether a filter [WORDS] may hold a tenant; False is certain."""
    one = _mixed(tenant)
    step = _mixed(tenant + (1 << 40)) | np.uint64(1)
    for _ in range(HASHES):
        bit = one % np.uint64(BITS)
        if not bloom[bit >> np.uint64(6)] >> (bit & np.uint64(63)) & np.uint64(1):
            return False
        one += step
    return True


@compiled
def _find(keys: I64, key: int) -> int:
    """The place of a key, or the free one where it would stand."""
    at = np.int64(_mixed(key) & np.uint64(len(keys) - 1))
    while keys[at] != key and keys[at] != FREE:
        at = (at + 1) & (len(keys) - 1)
    return int(at)


@compiled
def _walk(  # noqa: PLR0913, PLR0917
    query: F32, tenant: int, centroids: F32, first_child: I32, children: I32, filters: Words, keys: I64, spans: I64,
    slots: I32, vectors: F32, halves: Halves, order: I64, l2: bool, found: I32, score: F64,
) -> int:  # fmt: skip
    """Fill found [ef] and score [ef]; how many."""
    frontier = [(0.0, 0)]
    count, improving = 0, True
    while len(frontier) > 0 and improving:
        _, node = heapq.heappop(frontier)
        at = _find(keys, node << 32 | tenant)
        if keys[at] != FREE:
            improving = False
            for slot in slots[spans[at, 0] : spans[at, 1]]:
                near = exact_score(query, vectors, halves, slot, l2)
                if count < len(found) or near < score[count - 1]:
                    count, improving = place(slot, near, order, found, score, count), True
            continue
        first = first_child[node]
        for child in range(first, first + children[node]):
            if holds(filters[child], tenant):
                heapq.heappush(frontier, (exact_score(query, centroids, halves, child, l2), child))
    return count
