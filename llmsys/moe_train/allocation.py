"""How many replicas every expert gets: in proportion to its tokens, at least f (Lazarus, Eq. 1).

Integer arithmetic throughout, so that every rank computes the same numbers. Knows no node by name.
"""

from heapq import heapify, heapreplace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llmsys.moe_train.errors import PlanError

__all__ = ["allocate", "allocate_greedily", "usable_threshold"]


def usable_threshold(experts: int, nodes: int, slots: int, f: int) -> int:
    """The fault-tolerance threshold that the slots allow: min(f, ⌊N·c/E⌋, N).

    Raises PlanError where the slots cannot hold every expert once, ValueError for f < 1.
    """
    if f < 1:
        raise ValueError(f"threshold f is {f}; expected at least 1")
    if experts < 1 or nodes < 1 or slots < 1 or nodes * slots < experts:
        raise PlanError(experts, nodes, slots)
    return min(f, nodes * slots // experts, nodes)


def allocate(loads: ArrayLike, nodes: int, slots: int, f: int = 2) -> NDArray[np.int64]:
    """Replicas of every expert, `nodes * slots` in all, none under the usable threshold.

    `loads` [E] are tokens per expert, integers; ties are broken by expert id and all-zero loads count as equal ones.
    A hotter expert never gets fewer replicas. Returns [E] int64. Raises PlanError and ValueError as
    `usable_threshold`, and ValueError for loads that are negative or no vector of integers.

    >>> allocate([5, 1, 10], nodes=3, slots=3, f=2).tolist()
    [2, 2, 5]
    """
    tokens = checked_loads(loads)
    least = usable_threshold(len(tokens), nodes, slots, f)
    counted = tokens.tolist() if tokens.any() else [1] * len(tokens)
    replicas = np.empty(len(tokens), np.int64)
    free, rest = nodes * slots, sum(counted)
    for expert in np.argsort(tokens, kind="stable").tolist():
        # Python's integers: tokens times slots may pass 2**63
        replicas[expert] = max(counted[expert] * free // rest, least)
        free -= int(replicas[expert])
        rest -= counted[expert]
    return replicas


def allocate_greedily(loads: ArrayLike, nodes: int, slots: int) -> NDArray[np.int64]:
    """Replicas as a load balancer without failures in mind gives them: the next one goes to the expert with most
    tokens per replica (the rule of DeepSeek's EPLB). Shapes and errors as `allocate`.
    """
    tokens = checked_loads(loads)
    usable_threshold(len(tokens), nodes, slots, 1)
    counted = tokens.tolist()
    replicas = [1] * len(counted)
    hottest = [(-float(count), expert) for expert, count in enumerate(counted)]
    heapify(hottest)
    for _ in range(nodes * slots - len(counted)):
        expert = hottest[0][1]
        replicas[expert] += 1
        heapreplace(hottest, (-counted[expert] / replicas[expert], expert))
    return np.array(replicas, np.int64)


def checked_loads(loads: ArrayLike) -> NDArray[np.int64]:
    """The loads [E] as int64. Raises ValueError where they are no vector of integers from 0."""
    given = np.asarray(loads)
    if given.ndim != 1 or not np.issubdtype(given.dtype, np.integer):
        raise ValueError(f"loads of shape {given.shape} and type {given.dtype}; expected integers of shape [experts]")
    if given.size and int(given.min()) < 0:
        raise ValueError(f"a load of {int(given.min())} tokens; expected 0 or more")
    return given.astype(np.int64)
