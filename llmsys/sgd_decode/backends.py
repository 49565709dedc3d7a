"""What writes text for the decoder: jobs in, pieces of text out, on one clock.

A backend runs as many jobs at once as it has slots; `wait` blocks until something happened. Knows nothing of plans.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from llmsys.sgd_decode.step_time import StepTime

__all__ = ["Backend", "Delta", "End", "Job", "Message", "Size"]

Message = Mapping[str, str]
End = Literal["stop", "length", "cancelled", "error"]
Size = Literal["large", "small"]


@dataclass(frozen=True, slots=True)
class Job:
    """One piece of writing: the conversation so far, limits, and the strings that end it.

    min_tokens: no end before so many. grammar: "plan" where the text must be a plan of at most `max_parts` parts, else
    free text. model: which of two. share_prefix: whether keys and values that another job computed may be used.
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
    min_tokens: int = 0
    model: Size = "large"
    share_prefix: bool = True


@dataclass(frozen=True, slots=True)
class Delta:
    """What a job wrote: `tokens` new tokens as `text` at `t_s`, and its end.

    prompt_tokens and cached_tokens (of the prompt, not computed again) come with the end; logprob is the mean of the
    new tokens' log-probabilities where the backend knows it. refused: the job can never run as it stands.
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
    refused: bool = False


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

    def wait(self, timeout_s: float | None = None) -> list[Delta]:
        """Block until running jobs wrote something or ended; empty when none runs, or when the time is over."""
        ...

    def next_s(self) -> float:
        """When there will be something to take, on this clock: virtual time knows, wall time says 0."""
        ...

    def step_time(self) -> StepTime | None:
        """How long a step takes by its width, where that is known or can be measured here."""
        ...

    def close(self) -> None:
        """Let go of everything."""
        ...
