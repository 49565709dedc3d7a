"""The seam between a scheduling policy and whoever serves: what a request is, and what a policy is asked and told.

One object serves the engine, the simulator, the filter and the gateway. It knows no clock, no memory and no I/O: times
and the question whether a request fits come from the caller, and one thread calls it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

__all__ = ["QUEUED", "BatchFormer", "CacheAware", "Decision", "Policy", "Preemptive", "Request", "Throttled"]


@dataclass(slots=True, frozen=True)
class Request:
    """What a policy knows of a request: tokens are counts, `prefix` ids of blocks that requests may share.

    `max_tokens` bounds the output; in traces it is the true length, which is what `predict=oracle` reads.
    """

    id: str
    tenant: str
    prompt_tokens: int
    max_tokens: int
    group: str | None = None
    priority: int = 0
    prefix: tuple[int, ...] = ()
    ttft_slo_s: float | None = None


@dataclass(slots=True, frozen=True)
class Decision:
    """What became of an arrival: queued, or refused with a reason and the seconds after which a retry may pass."""

    accepted: bool
    reason: str = ""
    retry_after_s: float = 0.0


QUEUED = Decision(accepted=True)


class Policy(Protocol):
    """Who is served next. A request goes arrive → admit → tokens… → finish, or leaves by cancel at any point.

    An id that is not known in the state a call needs raises ValueError.
    """

    def arrive(self, request: Request, now_s: float) -> Decision:
        """Queue the request, or refuse it."""

    def admit(self, now_s: float, fits: Callable[[Request], bool]) -> list[Request]:
        """Take requests off the queue in the policy's order until one does not fit; `fits` reserves on True."""

    def tokens(self, request_id: str, n: int, now_s: float) -> None:
        """Account for n output tokens that a running request generated."""

    def finish(self, request_id: str, now_s: float) -> None:
        """Forget a running request that ended; what was predicted and not used is settled."""

    def cancel(self, request_id: str, now_s: float) -> None:
        """Forget a waiting or running request whose client left; it pays for the tokens it got."""

    def preempted(self, request_id: str, now_s: float) -> None:
        """Put a running request back at the head of its queue; nothing is charged twice."""

    def snapshot(self) -> dict[str, Any]:
        """The whole state as JSON values."""

    def restore(self, state: dict[str, Any]) -> None:
        """Take over a state that snapshot() of the same policy gave: restore(snapshot()) is the identity."""


@runtime_checkable
class Throttled(Protocol):
    """A policy that may hold back a request although it fits."""

    def wake_s(self, now_s: float) -> float | None:
        """The earliest time at which a request now held back may go; None if only room holds requests back."""


@runtime_checkable
class CacheAware(Protocol):
    """A policy that charges prompt tokens found in a cache at another price."""

    def cached(self, request_id: str, tokens: int, now_s: float) -> None:
        """So many prompt tokens of a running request came from a cache; said again, it replaces what was said."""


@runtime_checkable
class Preemptive(Protocol):
    """A policy that would rather stop a running request than let the head of its queue wait."""

    def victims(self, now_s: float) -> list[str]:
        """Running requests that may be stopped for the next request in line, first to go first."""


@runtime_checkable
class BatchFormer(Protocol):
    """A policy that decides how much prefill joins the decode steps."""

    def prefill_tokens(self, now_s: float, *, decode_s: float, token_s: float) -> int:
        """Prompt tokens for the next step, whose decodes alone take decode_s and each prompt token token_s more."""
