"""What a request owes so far: the bill that a counter charges, of a cost and of what is known about the request.

Knows no tenant and no weight; predictions come in as a number of output tokens that was not generated yet.
"""

from dataclasses import dataclass
from typing import Protocol

from llmsys.fair_queue.policy.backlog import Running
from llmsys.fair_queue.policy.cost import PAPER_COST, Cost

__all__ = ["Billing", "HolisticBilling", "TokenBilling"]


class Billing(Protocol):
    """Cost units that a running request owes once it has `output_tokens`; never less for more of them."""

    def due(self, record: Running, output_tokens: float) -> float: ...


@dataclass(slots=True, frozen=True)
class TokenBilling:
    """The cost of the tokens; a prompt token that came from a cache counts as `cached` of one, from 0 to 1."""

    cost: Cost = PAPER_COST
    cached: float = 1.0

    def due(self, record: Running, output_tokens: float) -> float:
        """Cost units of the prompt, cached tokens reduced, and of the output."""
        prompt_tokens = record.request.prompt_tokens - (1.0 - self.cached) * record.cached_tokens
        return self.cost(prompt_tokens, output_tokens)


@dataclass(slots=True, frozen=True)
class HolisticBilling:
    """alpha user + (1 - alpha) resource (Equinox, arXiv 2508.16646; read as an abstract only, simplified here).

    user = cost / (1 + waited / latency_s): tokens that came late count for less. resource = n_p + gpu n_q: time on the
    accelerator, in prompt tokens, with `gpu` the time of an output token over that of a prompt token.
    """

    cost: Cost = PAPER_COST
    alpha: float = 0.5
    latency_s: float = 10.0
    gpu: float = 10.0

    def due(self, record: Running, output_tokens: float) -> float:
        """Cost units of both counters together."""
        prompt_tokens = record.request.prompt_tokens
        user = self.cost(prompt_tokens, output_tokens) / (1.0 + record.waited_s / self.latency_s)
        return self.alpha * user + (1.0 - self.alpha) * (prompt_tokens + self.gpu * output_tokens)
