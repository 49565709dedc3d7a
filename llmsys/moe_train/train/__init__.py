"""Training that goes on in the same processes when workers die or join: the run side of `llmsys moe-train`."""

from llmsys.moe_train.train.board import Board
from llmsys.moe_train.train.communicator import Communicator
from llmsys.moe_train.train.experts import ExpertBank, expert_products
from llmsys.moe_train.train.gradients import sum_segments
from llmsys.moe_train.train.mixture import MoELayer, StepContext
from llmsys.moe_train.train.model import MoEModel, expert_name, fresh_expert
from llmsys.moe_train.train.nursery import Child, Nursery, serve
from llmsys.moe_train.train.routing import Route, cut_route, exchange, plan_route
from llmsys.moe_train.train.shape import PRESETS, ModelShape, read_shape

__all__ = [
    "PRESETS",
    "Board",
    "Child",
    "Communicator",
    "ExpertBank",
    "MoELayer",
    "MoEModel",
    "ModelShape",
    "Nursery",
    "Route",
    "StepContext",
    "cut_route",
    "exchange",
    "expert_name",
    "expert_products",
    "fresh_expert",
    "plan_route",
    "read_shape",
    "serve",
    "sum_segments",
]
