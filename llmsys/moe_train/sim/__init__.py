"""Training on nodes that come and go, simulated: real availability traces, a cost model, and a dozen policies."""

from llmsys.moe_train.sim.bootstrap import extend_trace
from llmsys.moe_train.sim.cost import MODELS, CostModel, ModelShape, read_cost, write_cost
from llmsys.moe_train.sim.engine import PHASES, Change, Pace, Policy, RunResult, simulate_run
from llmsys.moe_train.sim.policies import POLICIES, chosen_policies
from llmsys.moe_train.sim.session import PolicyOutcome, SimRequest, Summary, run_policies
from llmsys.moe_train.sim.traces import Tick, cut_trace, draw_failures, follow_counts, read_availability

__all__ = [
    "MODELS",
    "PHASES",
    "POLICIES",
    "Change",
    "CostModel",
    "ModelShape",
    "Pace",
    "Policy",
    "PolicyOutcome",
    "RunResult",
    "SimRequest",
    "Summary",
    "Tick",
    "chosen_policies",
    "cut_trace",
    "draw_failures",
    "extend_trace",
    "follow_counts",
    "read_availability",
    "read_cost",
    "run_policies",
    "simulate_run",
    "write_cost",
]
