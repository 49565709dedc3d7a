"""Proof that an index is sound: every invariant that its parts must keep, and every checksum.

`faults` looks at memory alone; `check_index` reads the files too. Repairs nothing.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from llmsys.vindex.cluster_tree import assign
from llmsys.vindex.codes import encode
from llmsys.vindex.faults import Corrupt
from llmsys.vindex.index_files import read_state
from llmsys.vindex.state import State
from llmsys.vindex.tenant_tree import CHILDREN, COLUMNS, END, FIRST_CHILD, NODE, START, sort_keys

__all__ = ["check_index", "faults", "refuse_faults"]

MOST = 10
DEPTH = 25


def check_index(path: Path, *, deep: bool) -> tuple[State, list[str]]:
    """The state of an index and its first faults. Raises BadInput where the files cannot be read at all.

    `deep` also assigns and codes every vector anew.
    """
    _, state, _, torn = read_state(path, verify=True)
    found = [f"{torn} bytes of an unfinished record end the log"] if torn else []
    return state, (found + faults(state) + (_recomputed(state) if deep else []))[:MOST]


def refuse_faults(path: Path, found: list[str]) -> None:
    """Raise Corrupt that names the first fault, if there is one."""
    if found:
        raise Corrupt(str(path), f"{found[0]} ({len(found)} faults)", "a sound index")


def faults(state: State) -> list[str]:
    """The first broken invariants of a state, in words; none for a sound one."""
    found = []
    for fault in _every_fault(state):
        found.append(fault)
        if len(found) == MOST:
            break
    return found


def _every_fault(state: State) -> Iterator[str]:
    store, clusters = state.store, state.clusters
    if not _is_tree(state):
        yield "clusters: leaves are not numbered depth first"
    if store.used - int(store.alive[: store.used].sum()) != store.dead:
        yield "store: the count of dead slots is wrong"
    live = store.live_slots()
    if len(set(store.names(live))) != len(live):
        yield "store: two live slots have one id"
    if not np.isfinite(store.vectors[: store.used]).all():
        yield "store: NaN or infinity"
    if len(live) and not (store.leaf[live].min() >= 0 and store.leaf[live].max() < clusters.leaves):
        yield "store: a leaf that the tree does not have"
    for name in state.tenants():
        yield from (f"tenant {name!r}: {fault}" for fault in _tenant_faults(state, name))


def _is_tree(state: State) -> bool:
    """Whether children split the leaf range of their parent in order, and leaves have a range of one."""
    tree = state.clusters
    if tree.leaf_start[0] != 0:
        return False
    for node in range(len(tree.children)):
        first, count = int(tree.first_child[node]), int(tree.children[node])
        edges = [*tree.leaf_start[first : first + count].tolist(), int(tree.leaf_end[node])]
        ends = tree.leaf_end[first : first + count].tolist()
        if count == 0 and tree.leaf_end[node] != tree.leaf_start[node] + 1:
            return False
        if count and (edges[0] != tree.leaf_start[node] or edges[1:] != ends):
            return False
    return True


def _tenant_faults(state: State, name: str) -> Iterator[str]:
    found, store, shape = state.lists[name], state.store, state.shape
    members = found.members()
    if len(np.unique(members)) != len(members):
        yield "a slot twice"
    if members.min() < 0 or members.max() >= store.used or not store.alive[members].all():
        yield "a slot that holds no vector"
        return
    if (np.diff(sort_keys(store.leaf, found.slots)) <= 0).any():
        yield "its list is out of order"
        return
    records = found.tree(state.clusters, store.leaf, shape.max_shortlist)
    bound = 1 + shape.branching * DEPTH * -(-len(members) // (shape.max_shortlist + 1))
    if records.shape[1] != COLUMNS or len(records) > bound:
        yield f"{len(records)} nodes, over the bound of {bound}"
    leaves = records[records[:, CHILDREN] == 0]
    leaves = leaves[np.argsort(leaves[:, START])]
    edges = [0, *leaves[:, END].tolist()]
    if leaves[:, START].tolist() != edges[:-1] or edges[-1] != len(found.slots):
        yield "its leaves do not partition its list"
    tree = state.clusters
    for node, start, end in leaves[:, [NODE, START, END]].tolist():
        run = store.leaf[found.slots[start:end]]
        if end > start and not (tree.leaf_start[node] <= run.min() and run.max() < tree.leaf_end[node]):
            yield "a vector off the path of its leaf"
        if end - start > shape.max_shortlist and tree.children[node]:
            yield "a leaf that should be split"
    for record in records[records[:, CHILDREN] > 0]:
        below = records[record[FIRST_CHILD] : record[FIRST_CHILD] + record[CHILDREN]]
        if record[END] - record[START] <= shape.max_shortlist or below[-1, END] != record[END]:
            yield "siblings that should be merged"


def _recomputed(state: State) -> list[str]:
    store, found = state.store, []
    live = store.live_slots()
    vectors = store.rows(live)
    if (assign(state.clusters, vectors) != store.leaf[live]).mean() > 0.001:
        found.append("store: vectors are not in the leaf that their descent reaches")
    if not np.array_equal(encode(vectors, store.mean, store.metric), store.codes[live]):
        found.append("store: codes are not those of the vectors")
    return found
