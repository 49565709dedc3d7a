"""Who sends: an owner for every transfer, so that the busiest sender sends as little as possible.

Transfers of one size are solved exactly by maximum flow; mixed sizes longest first, and the flow result is the check
that equal ones leave nothing on the table. Knows no plan.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["choose_senders"]


def choose_senders(owners: NDArray[np.bool_], sizes: NDArray[np.int64]) -> list[int]:
    """The sender of every transfer, min-max over bytes sent per node.

    Shapes: owners [M, N], who holds what transfer m carries (at least one), sizes [M] bytes; returns M node numbers.
    """
    if not len(owners):
        return []
    chosen = _longest_first(owners, sizes)
    if len(set(sizes.tolist())) > 1:
        return chosen
    most = int(np.bincount(chosen).max())
    low = -(-len(owners) // int(owners.any(axis=0).sum()))
    while low < most:
        limit = (low + most) // 2
        found = _by_flow(owners, limit)
        if found is None:
            low = limit + 1
        else:
            chosen, most = found, limit
    return chosen


def _longest_first(owners: NDArray[np.bool_], sizes: NDArray[np.int64]) -> list[int]:
    """Longest transfer first, among equals the one with fewest owners; each to the owner with least to send."""
    sent = np.zeros(owners.shape[1])
    chosen = [0] * len(owners)
    for job in np.lexsort((owners.sum(axis=1), -sizes)).tolist():
        sender = int(np.argmin(np.where(owners[job], sent, np.inf)))
        chosen[job] = sender
        sent[sender] += sizes[job]
    return chosen


def _by_flow(owners: NDArray[np.bool_], limit: int) -> list[int] | None:
    """Senders with at most `limit` transfers each, or None where there are none."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_flow

    jobs, nodes = owners.shape
    job, node = np.nonzero(owners)
    start, end = jobs + nodes, jobs + nodes + 1
    tails = np.concatenate([np.full(jobs, start), job, jobs + np.arange(nodes)])
    heads = np.concatenate([np.arange(jobs), jobs + node, np.full(nodes, end)])
    room = np.concatenate([np.ones(jobs + len(job), np.int32), np.full(nodes, limit, np.int32)])
    graph = csr_array((room, (tails, heads)), shape=(end + 1, end + 1))
    found = maximum_flow(graph, start, end)
    if found.flow_value < jobs:
        return None
    flow = found.flow.tocsr()[:jobs, jobs : jobs + nodes].toarray()
    return [int(sender) for sender in np.argmax(flow, axis=1)]
