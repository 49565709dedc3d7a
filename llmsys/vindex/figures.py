"""What an index holds and what each of its parts costs. Knows no files but the log's size."""

import sys

import msgspec
import numpy as np

from llmsys.vindex.index import Index
from llmsys.vindex.state import State

__all__ = ["Figures", "TenantFigures", "figures", "flat", "tenant_figures"]


class Figures(msgspec.Struct, frozen=True):
    """Counts, the shape of the tree, bytes in memory by part (overhead: all but the store), and the log.

    sharing: tenants per vector. largest_leaf, mean_leaf: vectors. drift: mean squared distance of vectors to their
    leaf's centroid.
    """

    vectors: int
    tenants: int
    grants: int
    sharing: float
    dimensions: int
    dtype: str
    metric: str
    leaves: int
    nodes: int
    largest_leaf: int
    mean_leaf: float
    drift: float
    dead: int
    seq: int
    log_bytes: int
    bytes: dict[str, int]
    bytes_per_vector: float


class TenantFigures(msgspec.Struct, frozen=True):
    """One tenant: vectors it sees, nodes of its tree, late grants that wait in its tail."""

    tenant: str
    vectors: int
    nodes: int
    tail: int


def figures(index: Index) -> Figures:
    """All figures of an index. Builds the trees of all tenants to count them."""
    state, store = index.state, index.state.store
    tenants, grants, live = state.tenants(), state.grants(), store.live_slots()
    parts = _bytes(state, tenants)
    sizes = np.bincount(store.leaf[live], minlength=state.clusters.leaves)
    return Figures(
        vectors=store.live,
        tenants=len(tenants),
        grants=grants,
        sharing=grants / max(1, store.live),
        dimensions=store.vectors.shape[1],
        dtype=store.dtype,
        metric=store.metric,
        leaves=state.clusters.leaves,
        nodes=len(state.clusters.children),
        largest_leaf=int(sizes.max()),
        mean_leaf=float(sizes.mean()),
        drift=_drift(state),
        dead=store.dead,
        seq=index.seq,
        log_bytes=index.log_bytes,
        bytes=parts,
        bytes_per_vector=parts["total"] / max(1, store.live),
    )


def flat(shown: Figures | TenantFigures) -> list[dict[str, str]]:
    """Rows of name and value, bytes by part among them."""
    rows = []
    for name, value in msgspec.to_builtins(shown).items():
        parts = {f"{part} bytes": size for part, size in value.items()} if isinstance(value, dict) else {name: value}
        rows += [
            {"figure": key, "value": f"{one:,}" if isinstance(one, int) else str(one)} for key, one in parts.items()
        ]
    return rows


def tenant_figures(index: Index, name: str) -> TenantFigures:
    """Figures of one tenant; one that sees nothing and one that does not exist are the same."""
    found = index.state.tenant(name)
    if found is None:
        return TenantFigures(name, 0, 0, 0)
    records = found.tree(index.state.clusters, index.state.store.leaf, index.state.shape.max_shortlist)
    return TenantFigures(name, len(found), len(records), len(found.tail))


def _bytes(state: State, tenants: list[str]) -> dict[str, int]:
    """Memory by part, with spare rows and Python's own objects; mapped files count as if they were read."""
    store, clusters = state.store, state.clusters
    lists = [state.lists[name] for name in tenants]
    for one in lists:
        one.tree(clusters, store.leaf, state.shape.max_shortlist)
    names = sys.getsizeof(state.lists) + sum(sys.getsizeof(name) for name in state.lists)
    nodes = (clusters.centroids, clusters.first_child, clusters.children, clusters.leaf_start, clusters.leaf_end)
    parts = {
        "store": store.vectors.nbytes,
        "codes": store.codes.nbytes,
        "lists": names + sum(one.list_bytes() for one in lists) + store.leaf.nbytes,
        "trees": sum(one.tree_bytes() for one in lists)
        + sum(part.nbytes for part in nodes)
        + state.space().nodes.nbytes,
        "ids": store.id_bytes() + store.alive.nbytes,
        "filters": 0,
    }
    total = sum(parts.values())
    return parts | {"overhead": total - parts["store"], "total": total}


def _drift(state: State) -> float:
    store, tree = state.store, state.clusters
    live = store.live_slots()
    if not len(live):
        return 0.0
    leaves = np.flatnonzero(tree.children == 0)
    node = np.empty(tree.leaves, np.int64)
    node[tree.leaf_start[leaves]] = leaves
    gap = store.rows(live) - tree.centroids[node[store.leaf[live]]]
    return float(np.einsum("nd,nd->n", gap, gap).mean())
