"""Training that goes on in the same processes when workers die or join: the run side of `llmsys moe-train`."""

from llmsys.moe_train.train.board import Board
from llmsys.moe_train.train.communicator import Communicator
from llmsys.moe_train.train.nursery import Child, Nursery

__all__ = ["Board", "Child", "Communicator", "Nursery"]
