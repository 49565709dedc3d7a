"""The global clustering tree: hierarchical k-means over all vectors (Curator, arXiv 2401.07119; parameters as in v2).

Every node has a centroid; a vector belongs to the leaf that greedy descent to the nearest child reaches. Leaves are
numbered in depth-first order, so that the leaves below a node are a range. Knows nothing of tenants.
"""

from dataclasses import dataclass

import numpy as np

from llmsys.vindex.arrays import F32, I32, I64

__all__ = ["ClusterTree", "TreeShape", "assign", "build_tree", "divided", "with_split"]

MAX_DEPTH = 24
ITERATIONS = 20


@dataclass(frozen=True, slots=True)
class TreeShape:
    """What shapes the trees: children per node, vectors that need no split, ids that a tenant's leaf may hold."""

    branching: int = 16
    max_leaf: int = 128
    max_shortlist: int = 128


@dataclass(frozen=True, slots=True, eq=False)
class ClusterTree:
    """Nodes, each before its children, the children of one next to each other, node 0 the root.

    centroids [nodes, d]; node's children are first_child .. first_child + children - 1; the leaves below it are
    numbered leaf_start .. leaf_end - 1.
    """

    centroids: F32
    first_child: I32
    children: I32
    leaf_start: I32
    leaf_end: I32

    @property
    def leaves(self) -> int:
        """Number of leaves."""
        return int(self.leaf_end[0])


@dataclass(slots=True, eq=False)
class _Node:
    centroid: F32
    children: list["_Node"]
    number: int = 0
    leaf_start: int = 0
    leaf_end: int = 0


def build_tree(vectors: F32, shape: TreeShape, seed: int) -> tuple[ClusterTree, I32]:
    """The tree over vectors [n, d], and the leaf of each. Raises Unavailable where faiss is needed and missing."""
    leaf = np.zeros(len(vectors), np.int32)
    centroid = vectors.mean(axis=0) if len(vectors) else np.zeros(vectors.shape[1], np.float32)
    root = _Node(centroid.astype(np.float32), [])
    counter = 0
    pending: list[tuple[_Node, I64, int]] = [(root, np.arange(len(vectors)), 0)]
    while pending:  # depth first, the first child next
        node, rows, depth = pending.pop()
        fits = len(rows) <= shape.max_leaf or depth == MAX_DEPTH
        parts = [] if fits else divided(vectors, rows, shape.branching, seed + counter)
        if not parts:
            leaf[rows] = counter
            node.leaf_start, node.leaf_end, counter = counter, counter + 1, counter + 1
            continue
        node.children = [_Node(centre, []) for centre, _ in parts]
        inner = [(child, part, depth + 1) for child, (_, part) in zip(node.children, parts, strict=True)]
        pending.extend(reversed(inner))
    return _flattened(root), leaf


def assign(tree: ClusterTree, vectors: F32) -> I32:
    """The leaf of each vector [n, d], by greedy descent; ties go to the child of the smaller number."""
    leaf = np.zeros(len(vectors), np.int32)
    pending: list[tuple[int, I64]] = [(0, np.arange(len(vectors)))]
    while pending:
        node, rows = pending.pop()
        first, count = int(tree.first_child[node]), int(tree.children[node])
        if count == 0:
            leaf[rows] = tree.leaf_start[node]
            continue
        nearest = _nearest(vectors[rows], tree.centroids[first : first + count])
        pending.extend((first + child, rows[nearest == child]) for child in np.unique(nearest).tolist())
    return leaf


def divided(vectors: F32, rows: I64, k: int, seed: int) -> list[tuple[F32, I64]]:
    """Centroids and rows of the parts that k-means makes of some rows; none where they all go one way.

    Raises Unavailable where faiss is missing.
    """
    from llmsys.gpu import require

    faiss = require("faiss")
    points = np.ascontiguousarray(vectors[rows])
    k = min(k, len(rows))
    means = faiss.Kmeans(points.shape[1], k, niter=ITERATIONS, seed=seed, min_points_per_centroid=1)
    means.train(points)
    nearest = _nearest(points, means.centroids)
    used = np.unique(nearest)
    if len(used) < 2:
        return []
    # Two k-means centroids that share a place leave one of them without vectors: it is dropped.
    return [(means.centroids[child], rows[nearest == child]) for child in used]


def with_split(tree: ClusterTree, leaf: int, centroids: F32) -> ClusterTree:
    """The tree with children of these centroids [c, d] below a leaf: it becomes leaves `leaf` to `leaf` + c - 1.

    Leaves of larger numbers move up by c - 1.
    """
    extra = len(centroids) - 1
    node = int(np.flatnonzero((tree.children == 0) & (tree.leaf_start == leaf))[0])
    first_child, children = tree.first_child.copy(), tree.children.copy()
    first_child[node], children[node] = len(children), extra + 1
    numbers = np.arange(leaf, leaf + extra + 1, dtype=np.int32)
    none = np.zeros(extra + 1, np.int32)
    return ClusterTree(
        centroids=np.concatenate([tree.centroids, centroids]).astype(np.float32),
        first_child=np.concatenate([first_child, none]),
        children=np.concatenate([children, none]),
        leaf_start=np.concatenate([tree.leaf_start + extra * (tree.leaf_start > leaf), numbers]).astype(np.int32),
        leaf_end=np.concatenate([tree.leaf_end + extra * (tree.leaf_end > leaf), numbers + 1]).astype(np.int32),
    )


def _nearest(points: F32, centroids: F32) -> I64:
    """The nearest centroid of each point, in float64 about one of them so that far origins cost no digits."""
    origin = centroids[0].astype(np.float64)
    near = centroids - origin
    result = np.empty(len(points), np.int64)
    for start in range(0, len(points), 2**16):
        piece = points[start : start + 2**16] - origin
        result[start : start + 2**16] = np.argmin((near**2).sum(axis=1) - 2 * (piece @ near.T), axis=1)
    return result


def _flattened(root: _Node) -> ClusterTree:
    order = [root]
    for node in order:  # grows while it is walked: breadth first
        for child in node.children:
            child.number = len(order)
            order.append(child)
    for node in reversed(order):
        if node.children:
            node.leaf_start, node.leaf_end = node.children[0].leaf_start, node.children[-1].leaf_end
    return ClusterTree(
        centroids=np.stack([node.centroid for node in order]).astype(np.float32),
        first_child=np.array([node.children[0].number if node.children else 0 for node in order], np.int32),
        children=np.array([len(node.children) for node in order], np.int32),
        leaf_start=np.array([node.leaf_start for node in order], np.int32),
        leaf_end=np.array([node.leaf_end for node in order], np.int32),
    )
