"""From one plan to the next: which node becomes which column, and who sends which expert's state to whom.

One mapping serves all layers and minimises the bytes fetched (an assignment problem); sources are chosen so that no
node sends more than it must. Copies of one expert on a node share one state. Knows no transport.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmsys.moe_train.errors import Unrecoverable
from llmsys.moe_train.planning import ModelPlan
from llmsys.moe_train.senders import choose_senders

__all__ = ["MAPPINGS", "Migration", "Move", "migrate"]

MAPPINGS = ("optimal", "greedy", "fixed")

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Move:
    """The state of one expert on its way between two nodes, named by their ids."""

    layer: int
    expert: int
    source: int
    target: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Migration:
    """`mapping[x]`: the id of the node that becomes column x of the new plan; `moves`: what is fetched, in order."""

    mapping: tuple[int, ...]
    moves: tuple[Move, ...]

    @property
    def bytes(self) -> int:
        """Bytes fetched in all."""
        return sum(move.bytes for move in self.moves)

    @property
    def max_send_bytes(self) -> int:
        """Bytes that the busiest sender sends."""
        sent: dict[int, int] = {}
        for move in self.moves:
            sent[move.source] = sent.get(move.source, 0) + move.bytes
        return max(sent.values(), default=0)


def migrate(
    old: ModelPlan,
    alive: Sequence[int],
    new: ModelPlan,
    *,
    state_bytes: int | Sequence[int] = 1,
    mapping: str = "optimal",
) -> Migration:
    """Map the columns of `new` to the `alive` node ids, some of which may hold nothing yet, and list the moves.

    `state_bytes`: of one expert, of all layers or of each. `optimal` fetches the fewest bytes; `greedy` is the paper's:
    again and again the pair of node and column with fewest bytes; `fixed` keeps the planned order. Apply the result
    with `new.on(found.mapping)`.
    Raises Unrecoverable with the experts that no living node holds, ValueError for sizes that do not fit.
    """
    layers = len(new.placements)
    sizes = np.broadcast_to(np.asarray(state_bytes, dtype=np.int64), (layers,))
    living = sorted(alive)
    if len(living) != len(new.node_ids) or len(set(living)) != len(living) or len(old.placements) != layers:
        raise ValueError(
            f"{len(living)} living nodes and {len(old.placements)} old layers; "
            f"expected {len(new.node_ids)} different nodes and {layers} layers"
        )
    held = _held(old, living)
    wanted = np.stack([placement.holders() for placement in new.placements]).transpose(0, 2, 1)
    lost = np.argwhere(~held.any(axis=1))
    if len(lost):
        raise Unrecoverable([(int(layer), int(expert)) for layer, expert in lost])
    cost = missing_bytes(held, wanted, sizes)
    columns = _mapped(cost, mapping)
    placed = [living[node] for node in columns]
    return Migration(tuple(placed), _moves(held, wanted[:, np.argsort(columns)], sizes, living))


def missing_bytes(held: NDArray[np.bool_], wanted: NDArray[np.bool_], sizes: Ints) -> Ints:
    """cost[j, x]: bytes that node j lacks for column x, all layers; held [L, N, E], wanted [L, X, E], sizes [L]."""
    # float32 holds these counts exactly: at most E of them a layer
    common = held.astype(np.float32) @ wanted.astype(np.float32).transpose(0, 2, 1)
    lacking = wanted.sum(axis=2)[:, None, :] - common.astype(np.int64)
    found: Ints = np.einsum("ljx,l->jx", lacking, sizes)
    return found


def _held(old: ModelPlan, living: Sequence[int]) -> NDArray[np.bool_]:
    """[L, N, E]: what each living node holds; nodes that the old plan does not know hold nothing."""
    known = {node: column for column, node in enumerate(old.node_ids)}
    held = np.zeros((len(old.placements), len(living), old.experts), np.bool_)
    for layer, placement in enumerate(old.placements):
        holders = placement.holders()
        for row, node in enumerate(living):
            if node in known:
                held[layer, row] = holders[:, known[node]]
    return held


def _mapped(cost: Ints, kind: str) -> list[int]:
    """The row (node) of every column; among equals, nodes stay in order."""
    if kind not in MAPPINGS:
        raise ValueError(f"mapping {kind!r}; expected one of {', '.join(MAPPINGS)}")
    count = len(cost)
    if kind == "fixed":
        return list(range(count))
    if kind == "greedy":
        return _greedy(cost)
    from scipy.optimize import linear_sum_assignment

    # the solver works in float64: common factors out, then one unit per displaced node to break ties
    unit = math.gcd(*cost.ravel().tolist()) or 1
    displaced = np.not_equal.outer(np.arange(count), np.arange(count))
    rows, columns = linear_sum_assignment(cost // unit * (count + 1) + displaced)
    return [int(row) for row in rows[np.argsort(columns)]]


def _greedy(cost: Ints) -> list[int]:
    left = cost.astype(np.float64)
    chosen = [0] * len(cost)
    for _ in range(len(cost)):
        row, column = divmod(int(np.argmin(left)), len(cost))
        chosen[column] = row
        left[row, :] = np.inf
        left[:, column] = np.inf
    return chosen


def _moves(held: NDArray[np.bool_], wanted: NDArray[np.bool_], sizes: Ints, living: Sequence[int]) -> tuple[Move, ...]:
    """What every node lacks, each from a sender that holds it; `wanted` [L, N, E] is by node here."""
    jobs = np.argwhere(wanted & ~held)
    owners = held[jobs[:, 0], :, jobs[:, 2]]
    senders = choose_senders(owners, sizes[jobs[:, 0]])
    return tuple(
        Move(int(layer), int(expert), living[sender], living[node], int(sizes[layer]))
        for (layer, node, expert), sender in zip(jobs.tolist(), senders, strict=True)
    )
