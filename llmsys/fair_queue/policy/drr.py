"""Deficit round robin over tenants, in cost units (VTC, §4.4 generalises to it; a quantum towards 0 gives VTC).

Each tenant in turn may start requests while its credit is positive; prompt and output tokens are debited as they
occur, so credit goes negative. A visit that finds no credit adds quantum * weight.
"""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from llmsys.fair_queue.policy.backlog import Backlog
from llmsys.fair_queue.policy.cost import LinearCost
from llmsys.fair_queue.policy.protocol import QUEUED, Decision, Request
from llmsys.fair_queue.policy.spec import check_weights

__all__ = ["DeficitRoundRobin"]


@dataclass(slots=True, eq=False)
class _Turn:
    name: str
    credit: float = 0.0
    waiting: deque[Request] = field(default_factory=deque)


class DeficitRoundRobin:
    """Round robin with credit. A positive credit is lost when the tenant's queue empties, so it cannot be saved up."""

    def __init__(
        self,
        quantum: float,
        *,
        cost: LinearCost,
        weights: Mapping[str, float] | None = None,
        cached: float = 1.0,
    ) -> None:
        self._quantum = quantum
        self._cost = cost
        self._cached = cached
        self._weights = check_weights(weights)
        self._backlog = Backlog()
        self._turns: dict[str, _Turn] = {}
        self._ring: deque[_Turn] = deque()

    def arrive(self, request: Request, now_s: float) -> Decision:
        """Queue the request; a tenant that starts to wait takes the last place in the round."""
        self._backlog.queue(request, now_s)
        turn = self._turns.setdefault(request.tenant, _Turn(request.tenant))
        if not turn.waiting:
            self._ring.append(turn)
        turn.waiting.append(request)
        return QUEUED

    def admit(self, now_s: float, fits: Callable[[Request], bool]) -> list[Request]:
        """Go round from where the last admission stopped, until a request does not fit."""
        admitted: list[Request] = []
        poor_visits = 0
        while self._ring:
            turn = self._ring[0]
            if turn.credit > 0:
                if not fits(turn.waiting[0]):
                    break
                admitted.append(self._start(turn, now_s))
                poor_visits = 0
            elif poor_visits < len(self._ring):
                poor_visits += 1
                turn.credit += self._share(turn)
            else:
                poor_visits = 0
                self._skip_poor_rounds()
                continue
            if self._ring and self._ring[0] is turn and turn.credit <= 0:
                self._ring.rotate(-1)
        return admitted

    def tokens(self, request_id: str, n: int, now_s: float) -> None:
        """Debit n output tokens."""
        record = self._backlog.record(request_id)
        record.generated += n
        self._turns[record.request.tenant].credit -= self._cost.wq * n

    def cached(self, request_id: str, tokens: int, now_s: float) -> None:
        """Give back what so many tokens of a running request's prompt cost more than cached ones."""
        record = self._backlog.record(request_id)
        credit = (1.0 - self._cached) * self._cost.wp * (tokens - record.cached_tokens)
        record.cached_tokens = tokens
        self._turns[record.request.tenant].credit += credit

    def finish(self, request_id: str, now_s: float) -> None:
        """Forget a running request."""
        self._backlog.end(request_id)

    def cancel(self, request_id: str, now_s: float) -> None:
        """Forget a waiting or running request."""
        if request_id in self._backlog.running:
            self._backlog.end(request_id)
            return
        request, _ = self._backlog.leave(request_id)
        turn = self._turns[request.tenant]
        turn.waiting.remove(request)
        self._leave_if_empty(turn)

    def preempted(self, request_id: str, now_s: float) -> None:
        """Return a running request to the head of its tenant's queue."""
        request = self._backlog.put_back(request_id)
        turn = self._turns[request.tenant]
        if not turn.waiting:
            self._ring.append(turn)
        turn.waiting.appendleft(request)

    def snapshot(self) -> dict[str, Any]:
        """The state as JSON values."""
        return {
            "backlog": self._backlog.snapshot(),
            "credit": {turn.name: turn.credit for turn in self._turns.values()},
            "ring": [[turn.name, [request.id for request in turn.waiting]] for turn in self._ring],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over a snapshot of a policy with the same options and weights."""
        self._backlog.restore(state["backlog"])
        self._turns = {name: _Turn(name, credit) for name, credit in state["credit"].items()}
        self._ring = deque(self._turns[name] for name, _ in state["ring"])
        for turn, (_, ids) in zip(self._ring, state["ring"], strict=True):
            turn.waiting = deque(self._backlog.waiting[request_id] for request_id in ids)

    def _start(self, turn: _Turn, now_s: float) -> Request:
        request = turn.waiting.popleft()
        _, first = self._backlog.start(request, now_s)
        if first:
            turn.credit -= self._cost.wp * request.prompt_tokens
        self._leave_if_empty(turn)
        return request

    def _leave_if_empty(self, turn: _Turn) -> None:
        if not turn.waiting:
            self._ring.remove(turn)
            turn.credit = min(turn.credit, 0.0)

    def _skip_poor_rounds(self) -> None:
        """Add at once the rounds in which every tenant's credit would stay at or below 0."""
        rounds = min(-turn.credit // self._share(turn) for turn in self._ring)
        for turn in self._ring:
            turn.credit += rounds * self._share(turn)

    def _share(self, turn: _Turn) -> float:
        return self._quantum * self._weights.get(turn.name, 1.0)
