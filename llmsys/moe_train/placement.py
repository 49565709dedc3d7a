"""Which node holds which expert: a placement and the ways to build one in a single pass.

MRO is the paper's construction to the letter (Lazarus, §4.2, Theorem 1); the other three are baselines. Every function
takes the replicas `r` [E] of one layer and fills `nodes` columns of `slots` experts. Knows nothing about chances or
loads beyond what it is given; `planning.place` is the door.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Placement", "checked_replicas", "compact", "mro", "pack_by_load", "segment_sizes", "spread"]

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Placement:
    """One layer's experts on the nodes.

    `columns` [N, c] int64 names the expert (from 0) in every slot of every node; several slots of a node may hold one
    expert. `optimal`: proven to have the highest chance of recovery for every k in `bound`; False says unknown, never
    "not optimal". `bound` maps k failures to a chance that no placement of these replicas exceeds.
    """

    columns: Ints
    experts: int
    optimal: bool = False
    bound: Mapping[int, float] = field(default_factory=dict)

    @property
    def nodes(self) -> int:
        """N: how many columns there are."""
        return int(self.columns.shape[0])

    @property
    def slots(self) -> int:
        """c: how many experts a node takes."""
        return int(self.columns.shape[1])

    def counts(self) -> Ints:
        """R [E, N] int64: how many slots of node j hold expert e."""
        found = np.zeros((self.experts, self.nodes), np.int64)
        np.add.at(found, (self.columns, np.arange(self.nodes)[:, None]), 1)
        return found

    def holders(self) -> NDArray[np.bool_]:
        """[E, N]: whether node j holds expert e."""
        found = np.zeros((self.experts, self.nodes), np.bool_)
        found[self.columns, np.arange(self.nodes)[:, None]] = True
        return found

    def replicas(self) -> Ints:
        """r [E] int64: slots that hold expert e."""
        return np.bincount(self.columns.ravel(), minlength=self.experts).astype(np.int64)


def checked_replicas(r: ArrayLike, nodes: int, slots: int) -> Ints:
    """r [E] as int64. Raises ValueError unless all are positive and fill nodes * slots exactly."""
    replicas = np.asarray(r, dtype=np.int64)
    if replicas.ndim != 1 or replicas.size == 0 or int(replicas.min()) < 1 or int(replicas.sum()) != nodes * slots:
        raise ValueError(f"replicas {replicas.tolist()}; expected positive numbers that sum to {nodes} * {slots}")
    return replicas


def segment_sizes(r: ArrayLike, nodes: int, slots: int) -> tuple[list[int], bool]:
    """|S_i| of every group of MRO, and whether the last one is whole: Σ_i r_{(i−1)c+1} ≤ N.

    >>> segment_sizes([2, 2, 2], nodes=3, slots=2)
    ([2, 1], False)
    """
    wanted = np.sort(checked_replicas(r, nodes, slots))[::slots].tolist()
    last = min(nodes - sum(wanted[:-1]), wanted[-1])
    return [*wanted[:-1], last], last == wanted[-1]


def mro(r: ArrayLike, nodes: int, slots: int, order: ArrayLike | None = None) -> Placement:
    """Maximum rank overlap: groups of `slots` experts from the rarest on, each group whole on its own nodes.

    `order` [N] is the order in which nodes fill the segments (default 0, 1, …). `optimal` only says whether the last
    segment is whole; a truncated one has counterexamples.
    """
    replicas = checked_replicas(r, nodes, slots)
    ranked = np.argsort(replicas, kind="stable")
    sizes, whole = segment_sizes(replicas, nodes, slots)
    columns = np.full((nodes, slots), -1, np.int64)
    left = replicas.copy()
    start = 0
    for group, size in enumerate(sizes):
        members = ranked[group * slots : (group + 1) * slots]
        columns[start : start + size, : len(members)] = members
        left[members] -= size
        start += size
    # slot by slot across nodes, the last group first: its members find nodes that do not hold them yet
    slot, node = np.nonzero(columns.T == -1)
    columns[node, slot] = np.repeat(ranked[::-1], left[ranked[::-1]])
    if order is not None:
        placed = np.empty_like(columns)
        placed[np.asarray(order)] = columns
        columns = placed
    return Placement(columns, len(replicas), optimal=whole)


def spread(r: ArrayLike, nodes: int, slots: int) -> Placement:
    """Deal the replicas, the rarest expert's first, to one node after the other."""
    replicas = checked_replicas(r, nodes, slots)
    ranked = np.argsort(replicas, kind="stable")
    dealt = np.repeat(ranked, replicas[ranked]).reshape(slots, nodes)
    return Placement(np.ascontiguousarray(dealt.T), len(replicas))


def compact(r: ArrayLike, nodes: int, slots: int) -> Placement:
    """Fill one node after the other with the replicas, the rarest expert's first."""
    replicas = checked_replicas(r, nodes, slots)
    ranked = np.argsort(replicas, kind="stable")
    return Placement(np.repeat(ranked, replicas[ranked]).reshape(nodes, slots), len(replicas))


def pack_by_load(r: ArrayLike, nodes: int, slots: int, loads: ArrayLike) -> Placement:
    """Put the replica with most tokens on the node with fewest that has a free slot (the rule of DeepSeek's EPLB).

    `loads` [E]: tokens per expert, shared equally by its replicas. Balances; knows nothing about failures.
    """
    replicas = checked_replicas(r, nodes, slots)
    each = (np.asarray(loads, dtype=np.float64) / replicas).tolist()
    hottest = np.argsort(-np.asarray(each), kind="stable")
    columns: list[list[int]] = [[] for _ in range(nodes)]
    idlest = [(0.0, node) for node in range(nodes)]
    for expert in np.repeat(hottest, replicas[hottest]).tolist():
        tokens, node = heappop(idlest)
        columns[node].append(expert)
        if len(columns[node]) < slots:
            heappush(idlest, (tokens + each[expert], node))
    return Placement(np.array(columns, np.int64), len(replicas))
