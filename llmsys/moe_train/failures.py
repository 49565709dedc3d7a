"""What fails together and how likely how many failures are: the world that placements are scored in.

A failure takes a domain (a node, or a rack of nodes). Given that k domains fail, a set F of k domains has a chance
proportional to the product of its hazards; equal hazards make all sets equally likely. Knows no expert.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["MOST_FAILURES", "FailureModel", "failure_weights"]

MOST_FAILURES = 5


def failure_weights(domains: int, p: float, most: int = MOST_FAILURES) -> dict[int, float]:
    """Weight of k = 1 … `most` failures among `domains`, each with chance p: Binomial given 1 ≤ k ≤ most; sums to 1.

    At least one domain survives. Raises ValueError for p outside (0, 1) and fewer than two domains.
    """
    if not 0 < p < 1 or domains < 2:
        raise ValueError(f"{domains} domains that fail with chance {p}; expected two or more and a chance in (0, 1)")
    odds = math.log(p) - math.log1p(-p)
    logs = {k: math.log(math.comb(domains, k)) + k * odds for k in range(1, min(most, domains - 1) + 1)}
    top = max(logs.values())
    total = sum(math.exp(value - top) for value in logs.values())
    return {k: math.exp(value - top) / total for k, value in logs.items()}


@dataclass(frozen=True, slots=True)
class FailureModel:
    """Which domain every node belongs to, every domain's hazard, and how much a survival of k failures counts.

    `domain_of` [N] numbers the domains from 0 without gaps; `hazards` [D] are positive; `weights` maps k to its weight
    in the objective Σ_k w_k P(k).
    """

    domain_of: tuple[int, ...]
    hazards: tuple[float, ...]
    weights: Mapping[int, float]

    def __post_init__(self) -> None:
        found = set(self.domain_of)
        if found != set(range(len(self.hazards))) or not all(h > 0 and math.isfinite(h) for h in self.hazards):
            raise ValueError(f"domains {sorted(found)} with hazards {self.hazards}; expected a positive one for each")

    @classmethod
    def of_nodes(cls, nodes: int, weights: Mapping[int, float] | None = None) -> "FailureModel":
        """Every node fails on its own, all alike; without weights, those of a rare failure (p = 1 %)."""
        chosen = weights if weights is not None else _rare(nodes)
        return cls(tuple(range(nodes)), (1.0,) * nodes, chosen)

    @property
    def domains(self) -> int:
        """D: how many things can fail."""
        return len(self.hazards)

    @property
    def is_uniform(self) -> bool:
        """Whether all sets of k domains are equally likely."""
        return len(set(self.hazards)) == 1

    def membership(self) -> NDArray[np.bool_]:
        """[N, D]: whether node j is in domain d."""
        found: NDArray[np.bool_] = np.equal.outer(np.asarray(self.domain_of), np.arange(self.domains))
        return found

    def subsets(self, counts: Sequence[int]) -> int:
        """How many sets of failed domains have one of these sizes."""
        return sum(math.comb(self.domains, k) for k in counts)


def _rare(nodes: int) -> dict[int, float]:
    return failure_weights(nodes, 0.01) if nodes > 1 else {}
