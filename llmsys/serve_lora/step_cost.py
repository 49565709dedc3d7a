"""Split the device seconds of one step over its requests (serve-lora §2.7).

The model of a step: t = fixed + Σ rows (prefill·p + decode·d + context·c) + Σ adapters (segment + segment_rank·rank).
A request's own tokens are its marginal part; the fixed part follows the marginal parts; an adapter's part is shared by
the token rows that went through it. The model only sets proportions: what is split is the time that was measured.
Knows nothing of tenants or money.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["StepModel", "StepRow", "marginal_parts", "split_step", "step_parts"]


@dataclass(frozen=True, slots=True)
class StepModel:
    """Seconds of a step by what is in it. The defaults are set by hand for SmolLM2-135M on a CPU.

    fixed_s: per step. prefill_s, decode_s: per token. context_s: per token of context that a row attends to.
    segment_s, segment_rank_s: per adapter in the step, and per unit of its rank.
    """

    fixed_s: float = 16e-3
    prefill_s: float = 0.9e-3
    decode_s: float = 1.6e-3
    context_s: float = 2e-6
    segment_s: float = 0.5e-3
    segment_rank_s: float = 30e-6

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 0 or more")


@dataclass(frozen=True, slots=True)
class StepRow:
    """What one request had in a step: tokens computed, context attended to, and its adapter ("" is the base)."""

    request: int
    tenant: str
    adapter: str = ""
    rank: int = 0
    prefill_tokens: int = 0
    decode_tokens: int = 0
    context_tokens: int = 0

    @property
    def tokens(self) -> int:
        """Token rows that this request put through the model."""
        return self.prefill_tokens + self.decode_tokens


def marginal_parts(rows: Sequence[StepRow], model: StepModel) -> list[float]:
    """Modelled seconds that each request adds: its own tokens, and its share of its adapter's segment."""
    through = Counter[str]()
    for row in rows:
        through[row.adapter] += row.tokens
    return [_own(row, model) + _segment(row, through[row.adapter], model) for row in rows]


def step_parts(rows: Sequence[StepRow], model: StepModel) -> list[float]:
    """Modelled seconds per request, the fixed part included; their sum is the modelled step."""
    parts = marginal_parts(rows, model)
    total = sum(parts)
    if total <= 0:
        return [model.fixed_s / len(rows) for _ in rows]
    return [part * (1 + model.fixed_s / total) for part in parts]


def split_step(seconds: float, rows: Sequence[StepRow], model: StepModel) -> list[float]:
    """Split measured seconds in proportion to the modelled parts; the shares sum to `seconds`.

    Raises ValueError for no rows: a step without requests is nobody's.
    """
    if not rows:
        raise ValueError("a step of 0 rows cannot be split; expected at least 1")
    parts = step_parts(rows, model)
    total = sum(parts)
    if total <= 0:
        return [seconds / len(rows) for _ in rows]
    return [seconds * (part / total) for part in parts]


def _own(row: StepRow, model: StepModel) -> float:
    return (
        model.prefill_s * row.prefill_tokens + model.decode_s * row.decode_tokens + model.context_s * row.context_tokens
    )


def _segment(row: StepRow, through: int, model: StepModel) -> float:
    if not row.adapter or not row.tokens:
        return 0.0
    return (model.segment_s + model.segment_rank_s * row.rank) * row.tokens / through
