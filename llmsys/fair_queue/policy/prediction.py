"""Guesses of a request's output length, charged in advance (VTC, §4.3).

Knows no counter: a policy asks for a guess at admission and tells the true length at the end.
"""

from collections.abc import Mapping
from hashlib import blake2b
from typing import Protocol

from llmsys.fair_queue.policy.protocol import Request

__all__ = ["MovingAverage", "NoPrediction", "Oracle", "Predictor"]


class Predictor(Protocol):
    """Guesses output tokens; `state` is what must survive a snapshot."""

    def guess(self, request: Request) -> float: ...

    def learn(self, request: Request, output_tokens: int) -> None: ...

    def state(self) -> dict[str, float]: ...

    def restore(self, state: Mapping[str, float]) -> None: ...


class NoPrediction:
    """Charge tokens as they come."""

    def guess(self, request: Request) -> float:
        return 0.0

    def learn(self, request: Request, output_tokens: int) -> None:
        """Nothing to learn."""

    def state(self) -> dict[str, float]:
        return {}

    def restore(self, state: Mapping[str, float]) -> None:
        """Nothing to restore."""


class Oracle(NoPrediction):
    """The true length, `max_tokens` in a trace, times a factor drawn uniformly from [1 - spread, 1 + spread].

    The draw is a hash of seed and request id, so it does not depend on the order of admissions.
    """

    def __init__(self, *, spread: float = 0.0, seed: int = 0) -> None:
        self._spread = spread
        self._key = seed.to_bytes(8, "little")

    def guess(self, request: Request) -> float:
        if self._spread == 0.0:
            return float(request.max_tokens)
        digest = blake2b(request.id.encode(), digest_size=7, key=self._key).digest()
        uniform = int.from_bytes(digest, "little") / 2**56
        return request.max_tokens * (1.0 - self._spread + 2.0 * self._spread * uniform)


class MovingAverage:
    """Per tenant: 0 at first, then the first finished length n, then (4 guess + n) / 5 (VTC-artifact, window 5)."""

    def __init__(self) -> None:
        self._mean: dict[str, float] = {}

    def guess(self, request: Request) -> float:
        return self._mean.get(request.tenant, 0.0)

    def learn(self, request: Request, output_tokens: int) -> None:
        mean = self._mean.get(request.tenant)
        self._mean[request.tenant] = float(output_tokens) if mean is None else (4.0 * mean + output_tokens) / 5.0

    def state(self) -> dict[str, float]:
        return dict(self._mean)

    def restore(self, state: Mapping[str, float]) -> None:
        self._mean = dict(state)
