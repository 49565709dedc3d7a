"""Fair sharing among agents: groups of requests, served in the order in which an ideal sharing would finish them.

A request costs n_p n_q + n_q²/2, the token-steps that its keys and values stay in memory. Under ideal sharing every
group gets the same rate, so one that joins at virtual time V with cost C finishes at V + C / weight; the group that
would finish first is served first (Justitia, arXiv 2510.17015: abstract read, formula recalled). Virtual time advances
by the token-steps served over the sum of weights of the groups that are here. A request without a group is its own; a
group that has nothing waiting or running is forgotten.
"""

from collections.abc import Callable, Mapping
from typing import Any

from llmsys.fair_queue.policy.backlog import Backlog, Running
from llmsys.fair_queue.policy.prediction import MovingAverage, Predictor
from llmsys.fair_queue.policy.protocol import QUEUED, Decision, Request
from llmsys.fair_queue.policy.spec import check_weights
from llmsys.fair_queue.policy.tenant_heap import Tenant, TenantHeap

__all__ = ["AgentFairSharing", "token_steps"]


def token_steps(prompt_tokens: float, output_tokens: float) -> float:
    """Memory in use over decode steps, in token-steps.

    >>> token_steps(100, 10)
    1050.0
    """
    return prompt_tokens * output_tokens + output_tokens * output_tokens / 2.0


class AgentFairSharing:
    """Earliest virtual finish first. Lengths are guessed at arrival, 0 at first, and put right at the end.

    The heap's `Tenant` is a group here and its `counter` the virtual finish.
    """

    def __init__(self, *, weights: Mapping[str, float] | None = None, predictor: Predictor | None = None) -> None:
        self._weights = check_weights(weights)
        self._predictor = predictor or MovingAverage()
        self._backlog = Backlog()
        self._now = 0.0
        self._groups: dict[str, Tenant] = {}
        self._seen = 0
        self._heap = TenantHeap()
        self._guessed: dict[str, float] = {}

    @property
    def virtual_finish(self) -> dict[str, float]:
        """Of every group that is here, when ideal sharing would finish it, in virtual time."""
        return {name: group.counter for name, group in self._groups.items()}

    def arrive(self, request: Request, now_s: float) -> Decision:
        """Queue the request; its group finishes later by its cost."""
        self._backlog.queue(request, now_s)
        group = self._groups.get(_name(request))
        if group is None:
            weight = self._weights.get(request.tenant, 1.0)
            group = self._groups[_name(request)] = Tenant(_name(request), self._seen, weight, self._now)
            self._seen += 1
        group.waiting.append(request)
        self._guessed[request.id] = token_steps(request.prompt_tokens, self._predictor.guess(request))
        group.counter += self._guessed[request.id] / group.weight
        self._heap.put(group)
        return QUEUED

    def admit(self, now_s: float, fits: Callable[[Request], bool]) -> list[Request]:
        """Admit oldest requests of the groups that would finish first until one does not fit."""
        admitted: list[Request] = []
        while (group := self._heap.least()) is not None and fits(group.waiting[0]):
            request = group.waiting.popleft()
            self._backlog.start(request, now_s)
            group.running += 1
            admitted.append(request)
        return admitted

    def tokens(self, request_id: str, n: int, now_s: float) -> None:
        """Let virtual time pass by what n output tokens hold in memory."""
        record = self._backlog.record(request_id)
        before = token_steps(record.request.prompt_tokens, record.generated)
        record.generated += n
        served = token_steps(record.request.prompt_tokens, record.generated) - before
        self._now += served / sum(group.weight for group in self._groups.values())

    def finish(self, request_id: str, now_s: float) -> None:
        """End a running request and learn its length."""
        record = self._backlog.end(request_id)
        self._predictor.learn(record.request, record.generated)
        self._groups[_name(record.request)].running -= 1
        self._settle(record)

    def cancel(self, request_id: str, now_s: float) -> None:
        """End a request; its group keeps only the cost of what it was served."""
        if request_id in self._backlog.running:
            record = self._backlog.end(request_id)
            self._groups[_name(record.request)].running -= 1
        else:
            request, ran = self._backlog.leave(request_id)
            record = ran or Running(request)
            self._groups[_name(request)].waiting.remove(request)
        self._settle(record)

    def preempted(self, request_id: str, now_s: float) -> None:
        """Return a running request to the head of its group."""
        request = self._backlog.put_back(request_id)
        group = self._groups[_name(request)]
        group.running -= 1
        group.waiting.appendleft(request)
        self._heap.put(group)

    def snapshot(self) -> dict[str, Any]:
        """The state as JSON values."""
        return {
            "backlog": self._backlog.snapshot(),
            "virtual_time": self._now,
            "seen": self._seen,
            "groups": [
                [g.name, g.index, g.weight, g.counter, [request.id for request in g.waiting]]
                for g in self._groups.values()
            ],
            "guessed": dict(self._guessed),
            "predictor": self._predictor.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over a snapshot of a policy with the same options and weights."""
        self._backlog.restore(state["backlog"])
        self._now, self._seen = state["virtual_time"], state["seen"]
        self._guessed = dict(state["guessed"])
        self._predictor.restore(state["predictor"])
        self._groups = {}
        for name, index, weight, finish, ids in state["groups"]:
            group = self._groups[name] = Tenant(name, index, weight, finish)
            for request_id in ids:
                group.waiting.append(self._backlog.waiting[request_id])
        for record in self._backlog.running.values():
            self._groups[_name(record.request)].running += 1
        self._heap.rebuild(list(self._groups.values()))

    def _settle(self, record: Running) -> None:
        """Put the true cost in place of the guess; forget the group if this was its last request."""
        name = _name(record.request)
        group = self._groups[name]
        true = token_steps(record.request.prompt_tokens, record.generated)
        group.counter += (true - self._guessed.pop(record.request.id)) / group.weight
        self._heap.put(group)
        if not group.waiting and not group.running:
            del self._groups[name]


def _name(request: Request) -> str:
    """The group's key: groups of different tenants differ, and so do requests that name no group."""
    return f"{request.tenant}\0{request.group}" if request.group is not None else f"\0{request.id}"
