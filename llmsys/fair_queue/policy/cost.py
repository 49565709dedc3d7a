"""What serving costs: cost units of n_p input and n_q output tokens, as the counters charge them.

A cost never falls when either count grows. Knows no tenant and no weight.
"""

from dataclasses import dataclass
from typing import Protocol

__all__ = ["A10G_LLAMA2_7B", "PAPER_COST", "Cost", "LinearCost", "ProfileCost"]


class Cost(Protocol):
    """Cost units of a request so far; `output_tokens` may be a fraction where it is a prediction."""

    def __call__(self, prompt_tokens: float, output_tokens: float) -> float: ...


@dataclass(slots=True, frozen=True)
class LinearCost:
    """w_p n_p + w_q n_q (VTC, §3.1): the paper takes 1 and 2.

    >>> LinearCost()(100, 10)
    120.0
    """

    wp: float = 1.0
    wq: float = 2.0

    def __call__(self, prompt_tokens: float, output_tokens: float) -> float:
        return self.wp * prompt_tokens + self.wq * output_tokens


@dataclass(slots=True, frozen=True)
class ProfileCost:
    """p n_p + q n_q + pq n_p n_q + qq n_q² + base: a measured cost (VTC, §4.2)."""

    p: float
    q: float
    pq: float
    qq: float
    base: float

    def __call__(self, prompt_tokens: float, output_tokens: float) -> float:
        n_p, n_q = prompt_tokens, output_tokens
        return self.p * n_p + self.q * n_q + self.pq * n_p * n_q + self.qq * n_q * n_q + self.base


# The prices of the paper's evaluation
PAPER_COST = LinearCost()

# Fitted by the paper's authors on one A10G (VTC-artifact, slora/server/router/req_queue.py)
A10G_LLAMA2_7B = ProfileCost(p=0.21001891, q=0.10075395, pq=0.0039868, qq=0.00324733, base=1.14601454)
