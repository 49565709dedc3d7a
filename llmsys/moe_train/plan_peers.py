"""Planners that `bench` measures beside ours: a greedy reading of MRO, and EPLB from a file that the user has.

Knows nothing of time.
"""

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llmsys.errors import Unavailable
from llmsys.moe_train.allocation import allocate
from llmsys.moe_train.placement import Placement

__all__ = ["greedy_overlap", "greedy_plan", "load_eplb"]

Ints = NDArray[np.int64]
Planner = Callable[[Ints, int, int], list[Placement]]


def greedy_overlap(r: Ints, nodes: int, slots: int) -> Placement:
    """Place replicas, the rarest expert's first, on the fullest nodes that have room and lack it: overlap by greed."""
    columns, used = np.full((nodes, slots), -1, np.int64), np.zeros(nodes, np.int64)
    for expert in np.argsort(r, kind="stable").tolist():
        for _ in range(int(r[expert])):
            # a second copy on one node only where no other node has room
            free = used < slots
            lacking = free & ~(columns == expert).any(axis=1)
            room = lacking if lacking.any() else free
            node = int(np.argmax(np.where(room, used, -1)))
            columns[node, used[node]] = expert
            used[node] += 1
    return Placement(columns, len(r))


def greedy_plan(loads: Ints, nodes: int, slots: int) -> list[Placement]:
    """`greedy_overlap` of every layer of `loads` [L, E], replicas by the paper's rule."""
    return [greedy_overlap(allocate(row, nodes, slots), nodes, slots) for row in loads]


def load_eplb(path: Path) -> Planner:
    """The planner of DeepSeek's `eplb.py`, run from the user's file. Raises Unavailable for a file without it."""
    spec = importlib.util.spec_from_file_location("eplb_of_user", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise Unavailable(f"no Python file {path}", "give DeepSeek's eplb.py with --eplb")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    rebalance = getattr(module, "rebalance_experts", None)
    if rebalance is None:
        raise Unavailable(f"{path} has no rebalance_experts", "give DeepSeek's eplb.py with --eplb")

    def planned(loads: Ints, nodes: int, slots: int) -> list[Placement]:
        import torch

        found = rebalance(torch.from_numpy(loads), nodes * slots, 1, 1, nodes)[0]
        return _columns(found.tolist(), nodes, slots, loads.shape[1])

    return planned


def _columns(layers: Sequence[Sequence[int]], nodes: int, slots: int, experts: int) -> list[Placement]:
    return [Placement(np.array(row, np.int64).reshape(nodes, slots), experts) for row in layers]
