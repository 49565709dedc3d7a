"""Mean kernel values at query points over points that change, within eps, under queries that may be adaptive."""

from llmsys.pse_hash.estimates import Estimates
from llmsys.pse_hash.faults import BudgetExhausted, Corrupt, DimensionMismatch, DuplicateId, Locked, UnknownId
from llmsys.pse_hash.kernel import KERNELS, Kernel
from llmsys.pse_hash.settings import CIS, METHODS, ROBUST, Costs, Settings
from llmsys.pse_hash.sketch import PairwiseSum

__all__ = [
    "CIS",
    "KERNELS",
    "METHODS",
    "ROBUST",
    "BudgetExhausted",
    "Corrupt",
    "Costs",
    "DimensionMismatch",
    "DuplicateId",
    "Estimates",
    "Kernel",
    "Locked",
    "PairwiseSum",
    "Settings",
    "UnknownId",
]
