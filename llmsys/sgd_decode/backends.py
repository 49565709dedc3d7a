"""What writes text for the decoder: jobs in, pieces of text out, on one clock.

A backend runs as many jobs at once as it has slots; `wait` blocks until something happened. Knows nothing of plans.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

__all__ = ["Backend", "Delta", "End", "Job", "Message"]

Message = Mapping[str, str]
End = Literal["stop", "length", "cancelled", "error"]


@dataclass(frozen=True, slots=True)
class Job:
    """One piece of writing: the conversation so far, limits, and the strings that end it.

    grammar: "plan" where the text must be a plan of at most `max_parts` parts; "" is free text.
    """

    id: str
    messages: Sequence[Message]
    max_tokens: int
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    seed: int | None = None
    grammar: Literal["", "plan"] = ""
    max_parts: int = 10
    tenant: str = "default"


@dataclass(frozen=True, slots=True)
class Delta:
    """What a job wrote: `tokens` new tokens as `text` at `t_s`, and its end.

    prompt_tokens and cached_tokens (of the prompt, not computed again) come with the end; logprob is the mean of the
    new tokens' log-probabilities where the backend knows it.
    """

    job: str
    text: str
    tokens: int
    t_s: float
    end: End | None = None
    error: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    logprob: float | None = None


class Backend(Protocol):
    """Something that writes several texts at once."""

    @property
    def slots(self) -> int:
        """Jobs that may run at once."""
        ...

    def now_s(self) -> float:
        """Seconds on the backend's clock."""
        ...

    def start(self, job: Job) -> None:
        """Begin a job. A job that cannot run ends with an error in a later `wait`."""
        ...

    def cancel(self, job_id: str) -> None:
        """End a job without another word of it; one that has ended is left alone."""
        ...

    def wait(self) -> list[Delta]:
        """Block until running jobs wrote something or ended; empty only when none runs."""
        ...

    def close(self) -> None:
        """Let go of everything."""
        ...
