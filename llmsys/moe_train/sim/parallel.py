"""Policies of plain expert parallelism: every expert on one node of each group of `ep_size`, groups alike.

They use a multiple of `ep_size` nodes; what differs is what a failure costs. Column g·ep + p is rank p of group g.
Knows no time.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from llmsys.moe_train.sim.cost import CostModel, per_policy
from llmsys.moe_train.sim.engine import Change, Pace

__all__ = [
    "EqualReplicas",
    "Recovery",
    "equal_balance",
    "memory_copies",
    "reconfigured",
    "replica_groups",
    "restarted",
    "snapshots",
]


def equal_balance(loads: NDArray[np.int64], ep_size: int) -> float:
    """Busiest over mean node, layers added up, where rank p of every group holds the p-th run of experts.

    `loads` [L, E]; E need not divide by `ep_size`.
    """
    rank = np.arange(loads.shape[1]) * ep_size // loads.shape[1]
    by_rank = np.stack([loads[:, rank == p].sum(axis=1) for p in range(ep_size)], axis=1)
    total = float(by_rank.mean(axis=1).sum())
    return float(by_rank.max(axis=1).sum()) / total if total else 1.0


class Recovery(Protocol):
    """What a loss means: the next layout and its price, given the policy that asks."""

    def __call__(
        self, policy: "EqualReplicas", layout: tuple[int, ...], lost: frozenset[int], alive: Sequence[int]
    ) -> Change: ...


class EqualReplicas:
    """A system on ⌊n/ep⌋·ep nodes with the load imbalance of equal replicas; `recovery` says what a loss costs."""

    def __init__(
        self,
        name: str,
        note: str,
        cost: CostModel,
        loads: NDArray[np.int64],
        *,
        recovery: Recovery,
        saves_to_join: bool = True,
    ) -> None:
        self.name = name
        self.note = note
        self.cost = cost
        self.join_wait_s = cost.join_wait_s
        self.restart_s = per_policy(cost.restart_s, name, 0.0)
        self.reconfigure_s = per_policy(cost.reconfigure_s, name, 0.0)
        self.ckpt_s = per_policy(cost.ckpt_s, name, 0.0)
        # one node's experts in all layers, the most that a rank holds
        self.rank_bytes = -(-loads.shape[1] // cost.ep_size) * loads.shape[0] * cost.expert_bytes
        self._recovery = recovery
        self._saves_to_join = saves_to_join
        self._balance = equal_balance(loads, cost.ep_size)

    def usable(self, nodes: int) -> int:
        """How many of so many nodes work."""
        return nodes // self.cost.ep_size * self.cost.ep_size

    def start(self, alive: Sequence[int]) -> Change:
        """Restart from the checkpoint on as many nodes as make whole groups."""
        layout = tuple(alive[: self.usable(len(alive))])
        return Change(layout, "restart" if layout else "idle", self.restart_s, None)

    def change(self, layout: tuple[int, ...], lost: frozenset[int], alive: Sequence[int]) -> Change:
        """Leave a loss to `recovery`; take newcomers where they make another whole group."""
        if lost:
            return self._recovery(self, layout, lost, alive)
        if self.usable(len(alive)) <= len(layout):
            return Change(layout, "compute")
        if self._recovery is not restarted and self._recovery is not memory_copies:
            return self._recovery(self, layout, lost, alive)
        grown = self.start(alive)
        if not self._saves_to_join:
            return grown
        return Change(grown.layout, "restart", self.ckpt_s + self.restart_s, saved=True)

    def pace(self, layout: tuple[int, ...]) -> Pace:
        """A step that waits for the rank with the hottest experts."""
        every = round(per_policy(self.cost.ckpt_every, self.name, 250))
        return Pace(self.cost.step_s(len(layout), self._balance, self.name), self.cost.batch, every, self.ckpt_s)


def restarted(policy: EqualReplicas, layout: tuple[int, ...], lost: frozenset[int], alive: Sequence[int]) -> Change:
    """Stop everything, load the last checkpoint, go on with whole groups."""
    return policy.start(alive)


def memory_copies(policy: EqualReplicas, layout: tuple[int, ...], lost: frozenset[int], alive: Sequence[int]) -> Change:
    """Restart from copies in a neighbour's memory, as of the last step; from the checkpoint if both of a pair died."""
    found = policy.start(alive)
    pairs = zip(layout[::2], layout[1::2], strict=False)
    if not found.layout or any(one in lost and other in lost for one, other in pairs):
        return found
    return Change(found.layout, "restart", found.pause_s + policy.cost.transfer_s(policy.rank_bytes))


def snapshots(policy: EqualReplicas, layout: tuple[int, ...], lost: frozenset[int], alive: Sequence[int]) -> Change:
    """As `reconfigured`; an expert without a living holder is rebuilt from a neighbour's snapshots in the same time."""
    found = reconfigured(policy, layout, lost, alive)
    if found.kind == "reconfigure" or not found.layout:
        return found
    copied = memory_copies(policy, layout, lost, alive)
    if copied.rollback is None:
        return copied
    return Change(found.layout, "reconfigure", policy.reconfigure_s + policy.cost.transfer_s(policy.rank_bytes))


def reconfigured(policy: EqualReplicas, layout: tuple[int, ...], lost: frozenset[int], alive: Sequence[int]) -> Change:
    """Go on in place with whole groups if every rank has a living holder.

    Nodes keep their rank as far as it is needed; others fetch what their new rank holds, spread over its holders.
    """
    ep = policy.cost.ep_size
    groups = len(alive) // ep
    living = set(alive) - lost
    holders = [[node for node in layout[p::ep] if node in living] for p in range(ep)]
    if not groups or not all(holders):
        return policy.start(alive)
    kept = [held[:groups] for held in holders]
    seated = {node for held in kept for node in held}
    free = [node for node in alive if node not in seated]
    busiest = 0
    for p in range(ep):
        wanted = groups - len(kept[p])
        busiest = max(busiest, -(-wanted // len(holders[p])))
        kept[p] += [free.pop(0) for _ in range(wanted)]
    order = tuple(kept[p][group] for group in range(groups) for p in range(ep))
    pause = policy.reconfigure_s + policy.cost.transfer_s(busiest * policy.rank_bytes)
    return Change(order, "reconfigure", pause)


def replica_groups(
    policy: EqualReplicas, layout: tuple[int, ...], lost: frozenset[int], alive: Sequence[int]
) -> Change:
    """A group that lost a node stops, the others go on; ep_size idle nodes make a new group, which copies its state."""
    ep = policy.cost.ep_size
    groups = [layout[start : start + ep] for start in range(0, len(layout), ep)]
    living = set(alive)
    whole = [group for group in groups if all(node in living and node not in lost for node in group)]
    if not whole:
        return policy.start(alive)
    at_work = {node for group in whole for node in group}
    idle = [node for node in alive if node not in at_work]
    healed = [tuple(idle[start : start + ep]) for start in range(0, len(idle) - ep + 1, ep)]
    # every newcomer copies from its own rank of a living group
    copies = -(-len(healed) // len(whole))
    order = tuple(node for group in (*whole, *healed) for node in group)
    return Change(order, "reconfigure", policy.reconfigure_s + policy.cost.transfer_s(copies * policy.rank_bytes))
