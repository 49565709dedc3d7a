"""What the simulated server can hold: the rules by which a request fits, and the settings of a run.

`sum` reserves every final length, as the paper's bound needs. `peak` is the artifact's rule: the memory that is needed
when requests end one after the other, so one's memory feeds another. `paged` counts only what is held, and preempts.
Knows no time and no policy.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["RESERVES", "ROUTES", "Machine", "peak_tokens"]

RESERVES = ("sum", "peak", "paged")
ROUTES = ("least", "hash", "d2lpm")


@dataclass(slots=True, frozen=True)
class Machine:
    """Tokens of memory, requests at once, prompt tokens of one prefill, decode steps between admissions.

    With a `chunk`, so many prompt tokens join each decode step in place of prefills that stall it. `prefix_cache` keeps
    blocks of `block_tokens` prompt tokens. `replicas` such machines share the arrivals by `route`.
    """

    memory: int = 10_000
    max_batch: int = 1000
    max_prefill: int = 3072
    admit_every: int = 10
    reserve: str = "sum"
    chunk: int = 0
    prefix_cache: bool = False
    block_tokens: int = 512
    replicas: int = 1
    route: str = "least"

    def __post_init__(self) -> None:
        if self.reserve not in RESERVES:
            raise ValueError(f"reserve is {self.reserve!r}; expected one of {', '.join(RESERVES)}")
        if self.route not in ROUTES:
            raise ValueError(f"route is {self.route!r}; expected one of {', '.join(ROUTES)}")
        sizes = self.memory, self.max_batch, self.max_prefill, self.admit_every, self.block_tokens, self.replicas
        if min(sizes) < 1 or self.chunk < 0:
            raise ValueError(f"{self}; expected sizes of at least 1")

    @property
    def is_plain(self) -> bool:
        """Whether one machine prefills whole prompts, without a cache."""
        return not self.chunk and not self.prefix_cache and self.replicas == 1

    def holds(self, prompt_tokens: int, output_tokens: int) -> bool:
        """Whether a request of this length fits an empty machine."""
        if self.reserve == "peak":
            return prompt_tokens + max(output_tokens, 1) < self.memory
        return prompt_tokens + output_tokens <= self.memory

    def holds_each(self, prompt: NDArray[np.int64], output: NDArray[np.int64]) -> NDArray[np.bool_]:
        """`holds` for many requests, [n]."""
        if self.reserve == "peak":
            return np.asarray(prompt + np.maximum(output, 1) < self.memory)
        return np.asarray(prompt + output <= self.memory)


def peak_tokens(held_and_left: Iterable[tuple[int, int]]) -> int:
    """The most tokens held at once if all run on and none joins: max_j (left_j j + sum of held_i for i <= j).

    Pairs are (tokens held, tokens to generate), taken by tokens to generate, most first: j requests still run when the
    j-th ends (VTC-artifact, `_can_add_new_req`).

    >>> peak_tokens([(10, 100), (10, 0)]), peak_tokens([(10, 100), (10, 90)])
    (110, 200)
    """
    most = held = 0
    for count, (mine, left) in enumerate(sorted(held_and_left, key=lambda pair: -pair[1]), 1):
        held += mine
        most = max(most, left * count + held)
    return most
