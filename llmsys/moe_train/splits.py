"""Which share of an expert's tokens every holder computes, and how even that leaves the nodes.

Replicas need not share equally: a small linear program finds the shares that minimise the busiest node's load. Knows
nothing about failures.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from llmsys.moe_train.placement import Placement

__all__ = ["balance", "equal_split", "even_splits", "node_loads", "split_model"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SPLITS = ("lp", "equal")


def equal_split(placement: Placement) -> Floats:
    """[E, N]: every replica takes the same share of its expert's tokens; rows sum to 1."""
    counts = placement.counts()
    shares: Floats = counts / counts.sum(axis=1, keepdims=True)
    return shares


def node_loads(loads: Ints, split: Floats) -> Floats:
    """[N]: tokens that every node computes, from loads [E] and shares [E, N]."""
    found: Floats = loads @ split
    return found


def balance(loads: Ints, splits: Sequence[Floats]) -> float:
    """Busiest node over mean node, summed layer by layer, since layers wait for each other: Σ_l max / Σ_l mean ≥ 1.

    `loads` [L, E]; one split [E, N] a layer. 1 where there are no tokens.
    """
    found = [node_loads(row, split) for row, split in zip(loads, splits, strict=True)]
    mean = sum(float(nodes.mean()) for nodes in found)
    return sum(float(nodes.max()) for nodes in found) / mean if mean else 1.0


def split_model(placements: Sequence[Placement], loads: Ints, kind: str = "lp") -> tuple[Floats, ...]:
    """One split [E, N] a layer, `lp` or `equal`. `loads` [L, E]. Raises ValueError for another kind or shape."""
    if kind not in SPLITS:
        raise ValueError(f"split {kind!r}; expected one of {', '.join(SPLITS)}")
    if loads.shape != (len(placements), placements[0].experts):
        raise ValueError(f"loads {loads.shape}; expected {(len(placements), placements[0].experts)}")
    if kind == "equal":
        return tuple(equal_split(placement) for placement in placements)
    return even_splits(placements, loads)


def even_splits(placements: Sequence[Placement], loads: Ints) -> tuple[Floats, ...]:
    """The splits with the least load on the busiest node of every layer; a layer without tokens shares equally.

    All layers are one program: minimise Σ_l z_l with z_l ≥ Σ_e t_e w_ej for every node j and Σ_j w_ej = 1.
    """
    splits = [equal_split(placement) for placement in placements]
    busy = [layer for layer, row in enumerate(loads) if row.any() and placements[layer].nodes > 1]
    if not busy:
        return tuple(splits)
    holders = np.stack([placements[layer].holders() for layer in busy])
    layer, expert, node = np.nonzero(holders)
    tokens = loads[busy] / loads[busy].sum(axis=1, keepdims=True) * holders.shape[2]
    shares = _solved(holders.shape, (layer, expert, node), tokens)
    table = np.zeros(holders.shape)
    table[layer, expert, node] = np.clip(shares, 0.0, None)
    table /= table.sum(axis=2, keepdims=True)
    for place, number in enumerate(busy):
        splits[number] = table[place]
    return tuple(splits)


def _solved(shape: tuple[int, ...], where: tuple[Ints, Ints, Ints], tokens: Floats) -> Floats:
    """The shares of the (layer, expert, node) triples in `where`, from tokens [L, E] over the layer's mean node."""
    from scipy.optimize import linprog
    from scipy.sparse import coo_array

    layers, experts, nodes = shape
    layer, expert, node = where
    count = len(layer)
    share = np.arange(count)
    peak = count + np.arange(layers)
    over_rows = np.concatenate([layer * nodes + node, np.arange(layers * nodes)])
    over_columns = np.concatenate([share, np.repeat(peak, nodes)])
    over = np.concatenate([tokens[layer, expert], np.full(layers * nodes, -1.0)])
    found = linprog(
        np.concatenate([np.zeros(count), np.ones(layers)]),
        A_ub=coo_array((over, (over_rows, over_columns)), shape=(layers * nodes, count + layers)),
        b_ub=np.zeros(layers * nodes),
        A_eq=coo_array((np.ones(count), (layer * experts + expert, share)), shape=(layers * experts, count + layers)),
        b_eq=np.ones(layers * experts),
        method="highs",
    )
    # shares of 1/N are feasible whatever the loads, so the program cannot fail but for a fault of the solver
    assert found.x is not None, found.message
    solution: Floats = found.x[:count]
    return solution
