"""A policy as the gateway drives it: estimates settled, weights and the policy itself changed while requests wait.

Knows counters only of policies that have them; for the others it only orders. Knows no socket.
"""

from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

from llmsys.fair_queue.gateway.sse import Usage
from llmsys.fair_queue.policy import Decision, Policy, Request, create

__all__ = ["Counted", "Scheduler"]

Fits = Callable[[Request], bool]


@runtime_checkable
class Counted(Protocol):
    """A policy with one counter per tenant, in cost units per weight, that can be kept, shared and put right."""

    def correct(self, request_id: str, *, prompt_tokens: int, output_tokens: int) -> None: ...

    def counter(self, tenant: str) -> float | None: ...

    def raise_to(self, tenant: str, counter: float) -> None: ...

    def add(self, tenant: str, cost: float) -> None: ...

    def least_waiting(self) -> float | None: ...

    def lift_floor(self) -> float | None: ...


class _Held:
    """A request that the scheduler holds: what it is, and the output tokens it was charged."""

    __slots__ = ("counted", "request", "running")

    def __init__(self, request: Request) -> None:
        self.request = request
        self.counted = 0
        self.running = False


class Scheduler:
    """Holds the requests between arrival and end. Raises PolicySpecError for a spec that `policy.create` refuses.

    `counted` is the policy's counters, or None if it has none.
    """

    def __init__(self, spec: str, weights: Mapping[str, float]) -> None:
        self.spec = spec
        self._weights = dict(weights)
        self._held: dict[str, _Held] = {}
        self._use(create(spec, self._weights))

    def _use(self, policy: Policy) -> None:
        self._policy = policy
        # asked once: isinstance of a Protocol looks at every one of its names
        self.counted: Counted | None = policy if isinstance(policy, Counted) else None

    def arrive(self, request: Request, now_s: float) -> Decision:
        """Queue a request, or refuse it as the policy says."""
        decision = self._policy.arrive(request, now_s)
        if decision.accepted:
            self._held[request.id] = _Held(request)
        return decision

    def admit(self, now_s: float, fits: Fits) -> list[Request]:
        """Take requests off the queue until one does not fit."""
        admitted = self._policy.admit(now_s, fits)
        for request in admitted:
            self._held[request.id].running = True
        return admitted

    def tokens(self, request_id: str, n: int, now_s: float) -> None:
        """Charge n output tokens."""
        self._held[request_id].counted += n
        self._policy.tokens(request_id, n, now_s)

    def settle(self, request_id: str, usage: Usage, now_s: float) -> None:
        """Replace the estimates of a running request by what the backend counted."""
        held = self._held[request_id]
        if self.counted is not None:
            self.counted.correct(request_id, prompt_tokens=usage.prompt_tokens, output_tokens=usage.output_tokens)
        elif usage.output_tokens > held.counted:
            self._policy.tokens(request_id, usage.output_tokens - held.counted, now_s)
        held.counted = usage.output_tokens

    def finish(self, request_id: str, now_s: float) -> None:
        """A running request has ended."""
        del self._held[request_id]
        self._policy.finish(request_id, now_s)

    def cancel(self, request_id: str, now_s: float) -> None:
        """A waiting or running request is given up."""
        del self._held[request_id]
        self._policy.cancel(request_id, now_s)

    def reweigh(self, weights: Mapping[str, float]) -> None:
        """Take other weights: they hold for what is charged from now on."""
        if dict(weights) == self._weights:
            return
        fresh = create(self.spec, weights)
        fresh.restore(self._policy.snapshot())
        self._use(fresh)
        self._weights = dict(weights)

    def switch(self, spec: str, now_s: float) -> None:
        """Go on under another policy: running requests are charged to it as so far, waiting ones keep their order.

        A limit of the new policy applies to later arrivals only. Raises PolicySpecError and changes nothing for a spec
        that cannot be used.
        """
        fresh = create(spec, self._weights)
        running = [held for held in self._held.values() if held.running]
        for held in running:
            fresh.arrive(held.request, now_s)
        names = {held.request.id for held in running}
        started = {request.id for request in fresh.admit(now_s, lambda request: request.id in names)}
        for held in running:
            if held.request.id in started and held.counted:
                fresh.tokens(held.request.id, held.counted, now_s)
        waiting = (held.request for held in self._held.values() if not held.running)
        refused = [request for request in waiting if not fresh.arrive(request, now_s).accepted]
        if refused or len(started) < len(running):
            raise ValueError(f"policy {spec} refuses requests that are here already; switch when fewer wait")
        self._use(fresh)
        self.spec = spec
