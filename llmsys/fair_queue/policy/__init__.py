"""Scheduling policies: who is served next, for the engine, the simulator, the filter and the gateway alike."""

from llmsys.fair_queue.policy.cost import A10G_LLAMA2_7B, Cost, LinearCost, ProfileCost
from llmsys.fair_queue.policy.drr import DeficitRoundRobin
from llmsys.fair_queue.policy.engine import EnginePolicy, EngineRequest, engine_policy
from llmsys.fair_queue.policy.fcfs import FirstComeFirstServed, RequestsPerMinute, TokensPerMinute
from llmsys.fair_queue.policy.prediction import MovingAverage, NoPrediction, Oracle, Predictor
from llmsys.fair_queue.policy.protocol import QUEUED, Decision, Policy, Request, Throttled
from llmsys.fair_queue.policy.registry import POLICIES, create
from llmsys.fair_queue.policy.spec import PolicySpecError, check_weights, parse_weights, split_specs
from llmsys.fair_queue.policy.vtc import LeastCounterFirst, VirtualTokenCounter

__all__ = [
    "A10G_LLAMA2_7B",
    "POLICIES",
    "QUEUED",
    "Cost",
    "Decision",
    "DeficitRoundRobin",
    "EnginePolicy",
    "EngineRequest",
    "FirstComeFirstServed",
    "LeastCounterFirst",
    "LinearCost",
    "MovingAverage",
    "NoPrediction",
    "Oracle",
    "Policy",
    "PolicySpecError",
    "Predictor",
    "ProfileCost",
    "Request",
    "RequestsPerMinute",
    "Throttled",
    "TokensPerMinute",
    "VirtualTokenCounter",
    "check_weights",
    "create",
    "engine_policy",
    "parse_weights",
    "split_specs",
]
