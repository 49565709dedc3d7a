"""How long one decoding step takes for b sequences at once: t(b) = alpha + beta * b, fitted to what was measured.

Knows nothing of plans or engines.
"""

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["StepTime"]


@dataclass(frozen=True, slots=True)
class StepTime:
    """Seconds of a step: `alpha_s` for any step, `beta_s` more for each sequence in it."""

    alpha_s: float
    beta_s: float

    def __post_init__(self) -> None:
        if self.alpha_s < 0 or self.beta_s < 0 or self.alpha_s + self.beta_s <= 0:
            raise ValueError(f"alpha {self.alpha_s} s, beta {self.beta_s} s; expected both >= 0 and a sum above 0")

    def of(self, sequences: int) -> float:
        """Seconds of a step with this many sequences.

        >>> StepTime(0.5, 0.25).of(2)
        1.0
        """
        return self.alpha_s + self.beta_s * sequences

    def per_token(self, slots: int) -> float:
        """The least seconds per token that any width up to `slots` reaches."""
        return min(self.of(width) / width for width in range(1, slots + 1))

    @classmethod
    def fit(cls, points: Sequence[tuple[int, float]]) -> "StepTime":
        """Least squares through (sequences, seconds), neither part negative. Raises ValueError below two widths."""
        widths = [width for width, _ in points]
        if len(set(widths)) < 2:
            raise ValueError(f"step times of widths {sorted(set(widths))}; expected two widths or more")
        mean_b, mean_t = sum(widths) / len(points), sum(seconds for _, seconds in points) / len(points)
        spread = sum((width - mean_b) ** 2 for width in widths)
        beta_s = max(0.0, sum((width - mean_b) * (seconds - mean_t) for width, seconds in points) / spread)
        if mean_t - beta_s * mean_b >= 0:
            return cls(mean_t - beta_s * mean_b, beta_s)
        return cls(0.0, sum(w * s for w, s in points) / sum(w * w for w in widths))
