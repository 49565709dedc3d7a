"""When to plan anew without a death: loads drift, and a new plan pays if what it saves exceeds what moving costs."""

import time
from collections.abc import Callable

import numpy as np

from llmsys.moe_train.planning import ModelPlan
from llmsys.moe_train.train.change import Change
from llmsys.moe_train.train.config import RunConfig
from llmsys.moe_train.train.messages import StepReport
from llmsys.moe_train.train.planner import Planner, find_transfer

__all__ = ["Rebalancer"]

BYTES_PER_S = 1e9  # until a transfer has been timed
LOOK_EVERY = 20


class Rebalancer:
    """Watches steps and says when a new plan would pay."""

    def __init__(self, config: RunConfig, planner: Planner, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock`: seconds that steps are timed by."""
        self._config, self._planner, self._clock = config, planner, clock
        self._plan: ModelPlan | None = None
        self._rate = BYTES_PER_S
        self._step_s = 0.0
        self._stepped_s: float | None = None

    def changed(self, plan: ModelPlan | None, change: Change) -> None:
        """Another plan runs from here on; how fast its state moved."""
        self._plan, self._stepped_s = plan, None
        slowest_s = max(one.transfer_s for one in change.ready.values())
        if change.bytes and slowest_s > 0:
            self._rate = change.bytes / slowest_s

    def observe(self, report: StepReport) -> dict[str, object] | None:
        """Take a step into the averages; where a new plan pays, what it is about to gain and cost."""
        now = self._clock()
        if self._stepped_s is not None:
            self._step_s += (now - self._stepped_s - self._step_s) / min(report.step, self._config.load_window)
        self._stepped_s = now
        self._planner.observe(report.counts)
        plan, config = self._plan, self._config
        if plan is None or report.step >= config.steps or report.step % LOOK_EVERY:
            return None
        before = self._planner.predicted_balance(plan.splits)
        if report.step % config.rebalance_every and before <= config.rebalance_at:
            return None
        return self._worth_it(plan, before, config.steps - report.step)

    def _worth_it(self, plan: ModelPlan, before: float, left: int) -> dict[str, object] | None:
        new = self._planner.plan(plan.node_ids)
        held = {
            node: [sorted(set(placement.columns[place].tolist())) for placement in plan.placements]
            for place, node in enumerate(plan.node_ids)
        }
        found = find_transfer(new, held, plan.node_ids, state_bytes=self._planner.state_bytes)
        after = self._planner.predicted_balance(found.plan.splits)
        gain_s = (1.0 - after / before) * self._step_s * min(left, self._config.rebalance_every)
        cost_s = found.bytes / self._rate
        if not np.isfinite(gain_s) or gain_s <= cost_s:
            return None
        return {"balance": before, "predicted": after, "gain_s": gain_s, "cost_s": cost_s, "bytes": found.bytes}
