"""What comes out: an answer with its plan, its parts' times, and what it cost in tokens.

Knows nothing of how answers are made.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from llmsys.sgd_decode.backends import Delta, Message, Size
from llmsys.sgd_decode.plan import Plan

__all__ = ["Answer", "Forecast", "Part", "Question", "TokenCount"]


@dataclass(frozen=True, slots=True)
class Question:
    """A conversation that wants an answer; `number` is its place in the input. stop: ends an answer in one piece."""

    number: int
    id: str
    messages: Sequence[Message]
    tenant: str = "default"
    category: str = ""
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(slots=True)
class Part:
    """A part as it was written: seconds from the start of its question; `fault` says why it has no text."""

    id: int
    title: str
    needs: tuple[int, ...]
    level: int
    text: str = ""
    tokens: int = 0
    start_s: float = 0.0
    end_s: float = 0.0
    logprob: float | None = None
    fault: str = ""
    model: Size = "large"


@dataclass(slots=True)
class TokenCount:
    """Tokens of the plan and of the answer; of prompts, those computed and those a cache saved.

    planning: of those computed, the planner's. dropped: written, and not part of the answer: what was retried,
    escalated or given up.
    """

    plan: int = 0
    answer: int = 0
    prefill: int = 0
    prefill_saved: int = 0
    dropped: int = 0
    planning: int = 0

    def add_prompt(self, delta: Delta) -> None:
        """Count the prompt of a job that has ended."""
        self.prefill += delta.prompt_tokens - delta.cached_tokens
        self.prefill_saved += delta.cached_tokens

    def add(self, other: "TokenCount") -> None:
        """Count what another writer of the same answer took."""
        self.plan += other.plan
        self.answer += other.answer
        self.prefill += other.prefill
        self.prefill_saved += other.prefill_saved
        self.dropped += other.dropped
        self.planning += other.planning


@dataclass(frozen=True, slots=True)
class Forecast:
    """What the step times of this machine say: seconds in one piece, and the least seconds of any schedule."""

    ar_s: float
    lower_bound_s: float
    critical_path_tokens: int


@dataclass(frozen=True, slots=True)
class Answer:
    """A finished answer. `mode` is the one that wrote it, after any fallback.

    Times are seconds from its start, which was `start_s` on the backend's clock.
    """

    question: Question
    text: str
    mode: str
    plan: Plan = field(default_factory=Plan)
    parts: Sequence[Part] = ()
    plan_s: float = 0.0
    total_s: float = 0.0
    tokens: TokenCount = field(default_factory=TokenCount)
    finish: str = "stop"
    fault: str = ""
    start_s: float = 0.0
    forecast: Forecast | None = None

    @property
    def missing(self) -> list[int]:
        """Parts that could not be written."""
        return [part.id for part in self.parts if part.fault]

    @property
    def failed(self) -> bool:
        """Whether any of it could not be written."""
        return bool(self.missing) or self.finish == "error"
