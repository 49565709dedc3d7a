"""The whole content of an index in memory, and what each operation does to it.

The same `apply` serves a writer and the recovery from the log, so both end in the same state. Knows no files.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from llmsys.vindex.arrays import I32, Stored
from llmsys.vindex.cluster_tree import ClusterTree, TreeShape, build_tree, divided, with_split
from llmsys.vindex.codes import encode
from llmsys.vindex.leaf_growth import LeafGrowth
from llmsys.vindex.operations import Add, Delete, DropTenant, Grant, Operation, Revoke
from llmsys.vindex.search_space import SearchSpace
from llmsys.vindex.slot_store import Id, SlotStore
from llmsys.vindex.tenant_list import Run, TenantList
from llmsys.vindex.tenant_tree import sort_keys

__all__ = ["State", "build_state", "compacted", "retrained"]


@dataclass(slots=True, eq=False)
class State:
    """Clustering tree, vectors, and the list of every tenant; `seq` is the number of the last operation.

    `splits` counts the leaves that were split since the lists were all sorted.
    """

    shape: TreeShape
    clusters: ClusterTree
    store: SlotStore
    lists: dict[str, TenantList]
    seq: int = 0
    splits: int = 0
    _growth: LeafGrowth | None = None
    _space: SearchSpace | None = None

    def space(self) -> SearchSpace:
        """What any search reads beside a run; no later change touches it."""
        if self._space is None:
            store = self.store
            nodes = encode(self.clusters.centroids, store.mean, "ip" if store.metric == "ip" else "l2")
            self._space = SearchSpace(store.metric, store.mean, store.vectors, store.codes, store.order, nodes)
        return self._space

    def run(self, name: str) -> Run | None:
        """What a search reads of a tenant; None if it has nothing."""
        found = self.tenant(name)
        return None if found is None else found.run(self.clusters, self.store.leaf, self.shape.max_shortlist)

    def tenant(self, name: str) -> TenantList | None:
        """The list of a tenant, without deleted vectors; None if it has none."""
        found = self.lists.get(name)
        if found is not None:
            found.refresh(self.store.alive, self.store.dead, self.store.leaf, self.splits)
            if not len(found):
                del self.lists[name]
                return None
        return found

    def tenants(self) -> list[str]:
        """The names of all tenants that see a vector, sorted."""
        return sorted(name for name in list(self.lists) if self.tenant(name) is not None)

    def grants(self) -> int:
        """Number of (vector, tenant) pairs."""
        return sum(len(self.lists[name]) for name in self.tenants())

    def tenants_of(self, slot: int) -> list[str]:
        """Who may see a slot, sorted; asks every tenant."""
        return [name for name in self.tenants() if self.lists[name].holds(slot, self.store.leaf)]

    def orphans(self, name: str) -> I32:
        """The slots that a tenant alone sees, ascending."""
        others = [self.lists[other].members() for other in self.tenants() if other != name]
        found = self.tenant(name)
        own = np.zeros(0, np.int32) if found is None else found.members()
        return np.setdiff1d(own, np.concatenate([*others, np.zeros(0, np.int32)])).astype(np.int32)

    def access(self) -> list[list[str]]:
        """Who may see each slot, sorted by name; empty for dead slots."""
        found: list[list[str]] = [[] for _ in range(self.store.used)]
        for name in self.tenants():
            for slot in self.lists[name].members().tolist():
                found[slot].append(name)
        return found

    def view(self, slots: I32) -> Run:
        """A run of any live slots, as a tenant would have it."""
        sorted_slots = slots[np.argsort(sort_keys(self.store.leaf, slots))]
        return TenantList(sorted_slots).run(self.clusters, self.store.leaf, self.shape.max_shortlist)

    def apply(self, operation: Operation) -> None:
        """Make a change that was checked: ids exist where they must, dimensions fit."""
        match operation:
            case Add():
                self._add(operation)
            case Delete():
                self.store.delete([self.store.slot_of[one] for one in operation.ids])
            case Grant():
                self._grant(operation.tenant, [self.store.slot_of[one] for one in operation.ids])
            case Revoke():
                self._revoke(operation)
            case DropTenant():
                self.lists.pop(operation.tenant, None)
        self.seq += 1

    def _add(self, operation: Add) -> None:
        slot_of = self.store.slot_of
        self.store.delete([slot_of[one] for one in operation.ids if one in slot_of])
        if self._growth is None:
            leaf = self.store.leaf[self.store.live_slots()]
            self._growth = LeafGrowth.of(leaf, self.clusters.leaves, self.shape.max_leaf)
        slots = self.store.append(self.clusters, operation.ids, operation.vectors)
        for name, granted in _by_tenant(slots.tolist(), operation.tenants).items():
            self._grant(name, granted)

        self._split_grown(slots, self._growth)
        self._space = None

    def _grant(self, name: str, slots: Sequence[int]) -> None:
        found = self.tenant(name)
        if found is None:
            found = self.lists[name] = TenantList(purged=self.store.dead, splits=self.splits)
        held = found.held(list(slots), self.store.leaf)
        found.add([slot for slot, there in zip(slots, held, strict=True) if not there], self.store.leaf)

    def _revoke(self, operation: Revoke) -> None:
        found = self.tenant(operation.tenant)
        if found is None:
            return
        found.remove_all([self.store.slot_of[one] for one in operation.ids], self.store.leaf)
        if not len(found):
            del self.lists[operation.tenant]

    def _split_grown(self, slots: I32, growth: LeafGrowth) -> None:
        """Split the leaves that new slots have made too large."""
        store, most = self.store, self.shape.max_leaf
        growth.add(store.leaf[slots])
        for leaf in growth.overfull(store.leaf[slots]):
            rows = np.flatnonzero(store.alive[: store.used] & (store.leaf[: store.used] == leaf))
            if not growth.counted(leaf, len(rows)):
                continue
            parts = divided(store.rows(rows), np.arange(len(rows)), max(2, -(-len(rows) // most)), seed=leaf)
            if not parts:
                growth.refuse(leaf)
                continue
            self.clusters = with_split(self.clusters, leaf, np.stack([centre for centre, _ in parts]))
            store.leaf[: store.used][store.leaf[: store.used] > leaf] += len(parts) - 1
            for number, (_, part) in enumerate(parts):
                store.leaf[rows[part]] = leaf + number
            growth.split(leaf, [len(part) for _, part in parts], most)
            self.splits += 1


def build_state(
    vectors: Stored, ids: Sequence[Id], access: Sequence[Iterable[str]], *, metric: str, shape: TreeShape, seed: int
) -> State:
    """A state of vectors [n, d], checked and prepared, in which slots stand in the order of the tree's leaves."""
    clusters, leaf = build_tree(vectors.astype(np.float32, copy=False), shape, seed)
    order = np.argsort(leaf, kind="stable")
    store = SlotStore.of(vectors[order], leaf[order], [ids[row] for row in order], metric)
    granted = _by_tenant(range(len(order)), [access[row] for row in order])
    lists = {name: TenantList(np.array(slots, np.int32)) for name, slots in sorted(granted.items())}
    return State(shape, clusters, store, lists)


def _by_tenant(slots: Iterable[int], tenants: Sequence[Iterable[str]]) -> dict[str, list[int]]:
    """The slots of each tenant, ascending; a tenant named twice for a slot counts once."""
    found: dict[str, list[int]] = {}
    for slot, names in zip(slots, tenants, strict=True):
        for name in dict.fromkeys(names):
            found.setdefault(name, []).append(slot)
    return found


def compacted(state: State) -> State:
    """The same content without dead slots and tails, in the order of the leaves of the same tree."""
    live = state.store.live_slots()
    order = live[np.argsort(sort_keys(state.store.leaf, live))]
    place = np.full(state.store.used, -1, np.int32)
    place[order] = np.arange(len(order), dtype=np.int32)
    ids = state.store.names(order)
    store = SlotStore.of(state.store.vectors[order], state.store.leaf[order], ids, state.store.metric)
    lists = {name: TenantList(np.sort(place[state.lists[name].members()])) for name in state.tenants()}
    return State(state.shape, state.clusters, store, lists, state.seq)


def retrained(state: State, seed: int) -> State:
    """The same content under a clustering tree built from the vectors of today."""
    live, access = state.store.live_slots(), state.access()
    ids = state.store.names(live)
    granted = [access[slot] for slot in live.tolist()]
    vectors, metric = state.store.vectors[live], state.store.metric
    fresh = build_state(vectors, ids, granted, metric=metric, shape=state.shape, seed=seed)
    fresh.seq = state.seq
    return fresh
