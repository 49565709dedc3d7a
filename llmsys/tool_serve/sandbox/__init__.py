"""Where tools' processes run so that nothing but their output leaves."""

from llmsys.tool_serve.sandbox.bubblewrap import Bubblewrap
from llmsys.tool_serve.sandbox.choice import SANDBOXES, choose_sandbox
from llmsys.tool_serve.sandbox.landlock import LandlockSeccomp
from llmsys.tool_serve.sandbox.limits import ProcessLimits, Sandbox
from llmsys.tool_serve.sandbox.rlimits import RlimitsOnly

__all__ = [
    "SANDBOXES",
    "Bubblewrap",
    "LandlockSeccomp",
    "ProcessLimits",
    "RlimitsOnly",
    "Sandbox",
    "choose_sandbox",
]
