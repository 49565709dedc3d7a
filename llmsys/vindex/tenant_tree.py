"""A tenant's clustering tree: runs of the tenant's sorted slot list, one small record per node.

The list is sorted by (leaf, slot), leaves are numbered depth first, so what a tenant holds below a node is a contiguous
run. A node is split only where its run is longer than `max_shortlist`. Knows no vectors.
"""

import numpy as np

from llmsys.vindex.arrays import I32, I64
from llmsys.vindex.cluster_tree import ClusterTree

__all__ = ["CHILDREN", "COLUMNS", "END", "FIRST_CHILD", "NODE", "START", "sort_keys", "tenant_tree"]

NODE, START, END, FIRST_CHILD, CHILDREN = range(5)
COLUMNS = 5


def sort_keys(leaf: I32, slots: I32) -> I64:
    """What a tenant's list is sorted by: the leaf of each slot, then the slot. `leaf` [all slots] by slot."""
    keys: I64 = (leaf[slots].astype(np.int64) << 32) | slots
    return keys


def tenant_tree(tree: ClusterTree, leaves: I32, max_shortlist: int) -> I32:
    """Records [m, COLUMNS] of the tenant whose list has these leaves [n], sorted; the root first, no empty children.

    Columns: node of the cluster tree, start and end of its run, record of its first child, number of children (0 for a
    leaf of the tenant's tree).
    """
    records: list[list[int]] = [[0, 0, len(leaves), 0, 0]]
    for record in records:  # grows while it is walked: breadth first
        node, start, end = record[:3]
        count = int(tree.children[node])
        if end - start <= max_shortlist or count == 0:
            continue
        first = int(tree.first_child[node])
        cuts = np.searchsorted(leaves[start:end], tree.leaf_end[first : first + count]) + start
        record[FIRST_CHILD] = len(records)
        at = start
        for child, cut in enumerate(cuts.tolist()):
            if cut > at:
                records.append([first + child, at, cut, 0, 0])
            at = cut
        record[CHILDREN] = len(records) - record[FIRST_CHILD]
    return np.array(records, np.int32)
