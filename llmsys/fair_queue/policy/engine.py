"""The door to the engine: a policy of this package behind the engine's own policy seam.

Knows the engine by structure only: what it reads of a request is `EngineRequest`. The engine owns the waiting queue and
says what it preempted by showing a request there again.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol, TypeVar

from llmsys.fair_queue.policy.fcfs import RequestsPerMinute, TokensPerMinute
from llmsys.fair_queue.policy.protocol import Policy, Request
from llmsys.fair_queue.policy.registry import create
from llmsys.fair_queue.policy.spec import PolicySpecError

__all__ = ["EnginePolicy", "EngineRequest", "engine_policy"]


class _Sampling(Protocol):
    @property
    def max_tokens(self) -> int: ...


class EngineRequest(Protocol):
    """What the adapter reads of the engine's request."""

    @property
    def request_id(self) -> int: ...
    @property
    def arrival_s(self) -> float: ...
    @property
    def tenant(self) -> str: ...
    @property
    def group(self) -> str | None: ...
    @property
    def priority(self) -> int: ...
    @property
    def prompt_tokens(self) -> int: ...
    @property
    def sampling(self) -> _Sampling: ...


R = TypeVar("R", bound=EngineRequest)


def engine_policy(spec: str, weights: Mapping[str, float] | None = None) -> "EnginePolicy":
    """The policy `spec` for an engine. Raises PolicySpecError for a bad spec, or one that refuses requests."""
    policy = create(spec, weights)
    if isinstance(policy, RequestsPerMinute | TokensPerMinute):
        raise PolicySpecError(f"policy {spec!r} refuses or delays requests, which an engine's policy cannot")
    return EnginePolicy(policy)


class EnginePolicy:
    """Implements the engine's Policy on top of ours: one call of the engine is one or two of the policy's."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._running: set[int] = set()
        self._known: set[int] = set()
        self._now_s = 0.0

    def on_arrival(self, request: EngineRequest, now_s: float) -> None:
        """Queue the request."""
        self._now_s = now_s
        self._known.add(request.request_id)
        self._policy.arrive(
            Request(
                id=str(request.request_id),
                tenant=request.tenant,
                prompt_tokens=request.prompt_tokens,
                max_tokens=request.sampling.max_tokens,
                group=request.group,
                priority=request.priority,
            ),
            now_s,
        )

    def pick(self, waiting: Sequence[R], admit: Callable[[R], bool], now_s: float) -> Iterator[R]:
        """Yield what the policy admits, in its order; a request that ran and waits again was preempted."""
        self._now_s = now_s
        by_id = {str(request.request_id): request for request in waiting}
        for request in reversed(waiting):
            if request.request_id not in self._known:
                self.on_arrival(request, now_s)
            elif request.request_id in self._running:
                self._running.remove(request.request_id)
                self._policy.preempted(str(request.request_id), now_s)
        for chosen in self._policy.admit(now_s, lambda ours: ours.id in by_id and admit(by_id[ours.id])):
            request = by_id[chosen.id]
            self._running.add(request.request_id)
            yield request

    def on_tokens(self, request: EngineRequest, *, input_tokens: int, output_tokens: int) -> None:
        """Charge output tokens; the prompt was charged when the policy admitted the request."""
        if output_tokens:
            self._policy.tokens(str(request.request_id), output_tokens, self._now_s)

    def on_finish(self, request: EngineRequest, finish: str) -> None:
        """Settle a request that ended, or take one back that never ran."""
        self._known.discard(request.request_id)
        ended = request.request_id in self._running and finish in ("stop", "length")
        self._running.discard(request.request_id)
        leave = self._policy.finish if ended else self._policy.cancel
        leave(str(request.request_id), self._now_s)

    def victim(self, running: Sequence[R]) -> R:
        """Preempt the newest arrival: it has the least work to lose."""
        return max(running, key=lambda request: (request.arrival_s, request.request_id))
