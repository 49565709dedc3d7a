"""Elastic mixture-of-experts training that survives failures without a restart (Lazarus, arXiv 2407.04656)."""

from llmsys.moe_train.allocation import allocate, allocate_greedily, usable_threshold
from llmsys.moe_train.bounds import recovery_bound
from llmsys.moe_train.dispatch import capacities, schedule
from llmsys.moe_train.errors import EpochChanged, PlanError, Unrecoverable
from llmsys.moe_train.failures import FailureModel, failure_weights
from llmsys.moe_train.migration import Migration, Move, migrate
from llmsys.moe_train.placement import Placement, compact, mro, pack_by_load, segment_sizes, spread
from llmsys.moe_train.planning import ModelPlan, place, plan_model
from llmsys.moe_train.recovery import Chance, chances, mro_recovery, recovery
from llmsys.moe_train.splits import balance, equal_split, node_loads, split_model

__all__ = [
    "Chance",
    "EpochChanged",
    "FailureModel",
    "Migration",
    "ModelPlan",
    "Move",
    "Placement",
    "PlanError",
    "Unrecoverable",
    "allocate",
    "allocate_greedily",
    "balance",
    "capacities",
    "chances",
    "compact",
    "equal_split",
    "failure_weights",
    "migrate",
    "mro",
    "mro_recovery",
    "node_loads",
    "pack_by_load",
    "place",
    "plan_model",
    "recovery",
    "recovery_bound",
    "schedule",
    "segment_sizes",
    "split_model",
    "spread",
    "usable_threshold",
]
