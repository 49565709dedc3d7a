"""What a sketch was built for: kernel, goal, method and robustness; the part of it that is no array.

Knows no points. Values are checked here, once, as UsageFault (exit 2).
"""

import math

import msgspec

from llmsys.errors import UsageFault
from llmsys.pse_hash.kernel import Kernel

__all__ = ["CIS", "METHODS", "ROBUST", "Costs", "Settings"]

METHODS = ("auto", "exact", "rs", "strat", "deann", "hbe")
ROBUST = ("fresh", "net", "dp", "none")
CIS = ("rigorous", "clt")


class Costs(msgspec.Struct, frozen=True):
    """Seconds measured at build: per pair of the exact sum at batch 1 and 256, per cluster plan, per sampled pair."""

    exact_one_s: float = 1e-8
    exact_batch_s: float = 3e-9
    plan_s: float = 1e-3
    draw_s: float = 1e-7


class Settings(msgspec.Struct, frozen=True):
    """A sketch's parameters. Raises UsageFault for a value that makes no sense."""

    kernel: str
    scale: float
    method: str = "auto"
    eps: float = 0.1
    delta: float = 0.01
    tau: float = 1e-6
    robust: str = "fresh"
    radius: float = 0.0
    max_queries: int = 1000
    tables: int = 100
    seed: int = 0
    costs: Costs = Costs()

    def __post_init__(self) -> None:
        Kernel(self.kernel, self.scale)
        for name, value, known in (("method", self.method, METHODS), ("robust", self.robust, ROBUST)):
            if value not in known:
                raise UsageFault(f"{name} {value!r}; expected one of {', '.join(known)}")
        for name, share in (("eps", self.eps), ("delta", self.delta)):
            if not 0 < share < 1:
                raise UsageFault(f"{name} {share:g}; expected a number between 0 and 1")
        if not (self.tau > 0 and math.isfinite(self.tau)):
            raise UsageFault(f"tau {self.tau:g}; expected a finite number above 0")
        if self.robust == "fresh" and self.method == "hbe":
            raise UsageFault("method hbe keeps secret hash functions; expected robust net, dp or none")
        if self.robust == "net" and self.kernel == "dot":
            raise UsageFault("robust net needs a Lipschitz kernel; expected fresh or dp for dot")
        if not (self.radius >= 0 and math.isfinite(self.radius)) or self.max_queries < 1 or self.tables < 1:
            raise UsageFault("radius, max-queries or tables out of range; expected radius >= 0 and counts from 1")
