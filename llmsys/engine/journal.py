"""What happened, told three ways: to the policy as charges, to `on_event` as life events, to `stats` as counts.

Charges of one step are gathered and given to the policy once per request, so that its sums are exact: every prompt
once, every emitted token once, nothing for what is computed again. Knows nothing about how steps are made.
"""

from collections.abc import Callable
from typing import TypedDict

from llmsys.engine.outputs import EngineEvent, EventKind
from llmsys.engine.policy import Policy
from llmsys.engine.scheduler import Turn
from llmsys.engine.sequence import Finish, Request

__all__ = ["Journal"]


class Totals(TypedDict):
    """The counts of `EngineStats` that only grow."""

    steps: int
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    preemptions: int
    finished: int


class Journal:
    """Records the life of requests. clock: seconds, only differences matter; on_event: called in order, if given."""

    def __init__(
        self, policy: Policy, clock: Callable[[], float], on_event: Callable[[EngineEvent], None] | None
    ) -> None:
        self.steps = self.prompt_tokens = self.cached_tokens = self.output_tokens = 0
        self.preemptions = self.finished = 0
        self._policy = policy
        self._clock = clock
        self._start_s = clock()
        self._on_event = on_event
        self._charges: dict[int, tuple[Request, int, int]] = {}

    def now_s(self) -> float:
        """Seconds since the engine was made."""
        return self._clock() - self._start_s

    def arrived(self, request: Request) -> None:
        """A request joined the waiting queue."""
        self._policy.on_arrival(request, request.arrival_s)
        self._tell("arrive", request, prompt_tokens=request.prompt_tokens)

    def rejected(self, request: Request, reason: str) -> None:
        """A request was refused before the policy saw it."""
        self._tell("reject", request, reason=reason)

    def planned(self, turn: Turn, at_s: float) -> None:
        """A step was planned at `at_s`, before it ran: input of the admitted that is not charged yet is charged now."""
        self.steps += bool(turn.chunks)
        for sequence in turn.preempted:
            self.preemptions += 1
            self._tell("preempt", sequence.request, at_s=at_s)
        for sequence in turn.admitted:
            tokens, sequence.uncharged_tokens = sequence.uncharged_tokens, 0
            if tokens:
                self.prompt_tokens += tokens
                self.cached_tokens += sequence.cached_tokens
                self._charge(sequence.request, tokens, 0)
                cached = sequence.cached_tokens
                self._tell("admit", sequence.request, prompt_tokens=tokens, cached_tokens=cached, at_s=at_s)

    def emitted(self, request: Request) -> None:
        """A request got one more token."""
        self.output_tokens += 1
        self._charge(request, 0, 1)

    def settle(self) -> None:
        """End a step: tell the policy what each request has used in it."""
        charges, self._charges = self._charges, {}
        for request, input_tokens, output_tokens in charges.values():
            self._policy.on_tokens(request, input_tokens=input_tokens, output_tokens=output_tokens)
            if output_tokens:
                self._tell("token", request, n=output_tokens)

    def ended(self, request: Request, finish: Finish) -> None:
        """The last choice of a request came to its end."""
        self.finished += 1
        self._policy.on_finish(request, finish)
        self._tell("cancel" if finish == "cancelled" else "finish", request, reason=finish)

    def totals(self) -> Totals:
        """Counts from the start, under their names in `EngineStats`."""
        return Totals(
            steps=self.steps,
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.cached_tokens,
            output_tokens=self.output_tokens,
            preemptions=self.preemptions,
            finished=self.finished,
        )

    def _charge(self, request: Request, input_tokens: int, output_tokens: int) -> None:
        _, inputs, outputs = self._charges.get(request.request_id, (request, 0, 0))
        self._charges[request.request_id] = (request, inputs + input_tokens, outputs + output_tokens)

    def _tell(
        self,
        kind: EventKind,
        request: Request,
        *,
        n: int = 0,
        prompt_tokens: int = 0,
        cached_tokens: int = 0,
        reason: str = "",
        at_s: float | None = None,
    ) -> None:
        if self._on_event is not None:
            name = request.id or str(request.request_id)
            self._on_event(
                EngineEvent(
                    kind,
                    self.now_s() if at_s is None else at_s,
                    request.request_id,
                    name,
                    request.tenant,
                    n,
                    prompt_tokens,
                    cached_tokens,
                    reason,
                )
            )
