"""When a small model's part is not good enough: its mean log-probability against a bound, given or learnt.

Knows nothing of what is done about it.
"""

from dataclasses import dataclass, field

__all__ = ["ConfidenceBook"]

PERCENTILE = 0.20
LEAST = 10


@dataclass(slots=True)
class ConfidenceBook:
    """A bound that stands, or the PERCENTILE of all parts seen so far, once there are LEAST of them."""

    bound: float | None = None
    _seen: list[float] = field(default_factory=list)

    def doubts(self, logprob: float | None) -> bool:
        """Remember a part's mean log-probability, and say whether it lies below the bound; False where unknown.

        >>> ConfidenceBook(-1.0).doubts(-1.5)
        True
        """
        if logprob is None:
            return False
        bound = self.bound
        if bound is None and len(self._seen) >= LEAST:
            bound = sorted(self._seen)[int(PERCENTILE * len(self._seen))]
        self._seen.append(logprob)
        return bound is not None and logprob < bound
