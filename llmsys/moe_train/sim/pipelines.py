"""Models of systems that spread a model over pipelines and use any number of nodes.

They have no expert parallelism here: work is even, and `slowdown` stands for their bubbles or redundant work. Knows no
time.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from llmsys.moe_train.sim.cost import CostModel, per_policy
from llmsys.moe_train.sim.engine import Change, Pace

__all__ = ["PipelinePolicy"]


class PipelinePolicy:
    """All nodes work. A loss is survived unless more than `tolerated` nodes, or two neighbours in the layout, die at
    once; the state of a lost node comes from one that holds the same.
    """

    def __init__(
        self,
        name: str,
        note: str,
        cost: CostModel,
        loads: NDArray[np.int64],
        *,
        tolerated: int | None,
        neighbours_back_up: bool,
    ) -> None:
        self.name = name
        self.note = note
        self.join_wait_s = cost.join_wait_s
        self._cost = cost
        self._tolerated = tolerated
        self._neighbours = neighbours_back_up
        self._state_bytes = loads.size * cost.expert_bytes
        # every layer twice: that is what makes a loss survivable
        self._least = max(2, -(-2 * loads.shape[1] // cost.slots))

    def start(self, alive: Sequence[int]) -> Change:
        """Restart from the checkpoint where there is room for two copies."""
        if len(alive) < self._least:
            return Change((), "idle", rollback=None)
        return Change(tuple(alive), "restart", per_policy(self._cost.restart_s, self.name, 0.0), None)

    def change(self, layout: tuple[int, ...], lost: frozenset[int], alive: Sequence[int]) -> Change:
        """Go on in place where the loss is tolerated, else restart."""
        if len(alive) < self._least or self._is_too_much(layout, lost):
            return self.start(alive)
        share = self._state_bytes // len(alive)
        pause = per_policy(self._cost.reconfigure_s, self.name, 0.0) + self._cost.transfer_s(share)
        return Change(tuple(alive), "reconfigure", pause)

    def pace(self, layout: tuple[int, ...]) -> Pace:
        """An even step, slowed down."""
        every = round(per_policy(self._cost.ckpt_every, self.name, 250))
        step_s = self._cost.step_s(len(layout), 1.0, self.name)
        return Pace(step_s, self._cost.batch, every, per_policy(self._cost.ckpt_s, self.name, 0.0))

    def _is_too_much(self, layout: tuple[int, ...], lost: frozenset[int]) -> bool:
        if self._tolerated is not None and len(lost) > self._tolerated:
            return True
        ring = zip(layout, layout[1:] + layout[:1], strict=True)
        return self._neighbours and len(layout) > 1 and any(one in lost and other in lost for one, other in ring)
