"""Scheduling policies: who is served next, for the engine, the simulator, the filter and the gateway alike."""

from llmsys.fair_queue.policy.billing import Billing, HolisticBilling, TokenBilling
from llmsys.fair_queue.policy.cost import A10G_LLAMA2_7B, Cost, LinearCost, ProfileCost
from llmsys.fair_queue.policy.dlpm import DeficitLongestPrefixMatch
from llmsys.fair_queue.policy.drr import DeficitRoundRobin
from llmsys.fair_queue.policy.engine import EnginePolicy, EngineRequest, engine_policy
from llmsys.fair_queue.policy.fairbatch import SlackBatching
from llmsys.fair_queue.policy.fcfs import FirstComeFirstServed, RequestsPerMinute, TokensPerMinute
from llmsys.fair_queue.policy.justitia import AgentFairSharing, token_steps
from llmsys.fair_queue.policy.prediction import MovingAverage, NoPrediction, Oracle, Predictor
from llmsys.fair_queue.policy.prefixes import RecentPrefixes, matched_tokens
from llmsys.fair_queue.policy.priority import StrictPriority
from llmsys.fair_queue.policy.protocol import (
    QUEUED,
    BatchFormer,
    CacheAware,
    Decision,
    Policy,
    Preemptive,
    Request,
    Throttled,
)
from llmsys.fair_queue.policy.registry import POLICIES, create
from llmsys.fair_queue.policy.spec import PolicySpecError, check_weights, parse_weights, split_specs
from llmsys.fair_queue.policy.urgency import Deadline, Slack, Urgency
from llmsys.fair_queue.policy.vtc import LeastCounterFirst, VirtualTokenCounter

__all__ = [
    "A10G_LLAMA2_7B",
    "POLICIES",
    "QUEUED",
    "AgentFairSharing",
    "BatchFormer",
    "Billing",
    "CacheAware",
    "Cost",
    "Deadline",
    "Decision",
    "DeficitLongestPrefixMatch",
    "DeficitRoundRobin",
    "EnginePolicy",
    "EngineRequest",
    "FirstComeFirstServed",
    "HolisticBilling",
    "LeastCounterFirst",
    "LinearCost",
    "MovingAverage",
    "NoPrediction",
    "Oracle",
    "Policy",
    "PolicySpecError",
    "Predictor",
    "Preemptive",
    "ProfileCost",
    "RecentPrefixes",
    "Request",
    "RequestsPerMinute",
    "Slack",
    "SlackBatching",
    "StrictPriority",
    "Throttled",
    "TokenBilling",
    "TokensPerMinute",
    "Urgency",
    "VirtualTokenCounter",
    "check_weights",
    "create",
    "engine_policy",
    "matched_tokens",
    "parse_weights",
    "split_specs",
    "token_steps",
]
