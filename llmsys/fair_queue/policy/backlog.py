"""Which requests a policy holds: where each one waits or runs, and the state of one that runs.

Knows no order and no tenant's counter. Every mistake in the sequence of calls is a ValueError that names the id.
"""

from dataclasses import asdict, dataclass
from typing import Any

from llmsys.fair_queue.policy.protocol import Request

__all__ = ["Backlog", "Running", "request_from", "request_to"]


@dataclass(slots=True)
class Running:
    """A request that has been admitted: output tokens so far, and cost units charged for it, before any weight.

    Of its prompt `cached_tokens` were found in a cache; it waited `waited_s` for its first admission.
    """

    request: Request
    generated: int = 0
    charged: float = 0.0
    cached_tokens: int = 0
    waited_s: float = 0.0


def request_to(request: Request) -> dict[str, Any]:
    """The request as JSON values."""
    return asdict(request)


def request_from(values: dict[str, Any]) -> Request:
    """The request that `request_to` wrote."""
    return Request(**{**values, "prefix": tuple(values["prefix"])})


class Backlog:
    """Waiting and running requests by id. A preempted request waits again and keeps its Running record.

    `since` holds the arrival, in seconds, of every request that waits to be admitted for the first time.
    """

    def __init__(self) -> None:
        self.waiting: dict[str, Request] = {}
        self.running: dict[str, Running] = {}
        self.preempted: dict[str, Running] = {}
        self.since: dict[str, float] = {}

    def queue(self, request: Request, now_s: float) -> None:
        """Take in an arrival. Raises ValueError if its id waits or runs already."""
        if request.id in self.waiting or request.id in self.running:
            raise ValueError(f"request {request.id!r} is here already; ids must differ")
        self.waiting[request.id] = request
        self.since[request.id] = now_s

    def start(self, request: Request, now_s: float) -> tuple[Running, bool]:
        """Move a waiting request to running; the flag says whether it starts for the first time."""
        del self.waiting[request.id]
        record = self.preempted.pop(request.id, None)
        first = record is None
        if record is None:
            record = Running(request, waited_s=now_s - self.since.pop(request.id))
        self.running[request.id] = record
        return record, first

    def record(self, request_id: str) -> Running:
        """The running request. Raises ValueError if it does not run."""
        try:
            return self.running[request_id]
        except KeyError:
            raise ValueError(f"request {request_id!r} is not running") from None

    def end(self, request_id: str) -> Running:
        """Forget a running request and return its record."""
        record = self.record(request_id)
        del self.running[request_id]
        return record

    def leave(self, request_id: str) -> tuple[Request, Running | None]:
        """Forget a waiting request; the record is there if it was preempted. Raises ValueError if it does not wait."""
        request = self.waiting.pop(request_id, None)
        if request is None:
            raise ValueError(f"request {request_id!r} is neither waiting nor running")
        self.since.pop(request_id, None)
        return request, self.preempted.pop(request_id, None)

    def put_back(self, request_id: str) -> Request:
        """Move a running request back to waiting."""
        record = self.end(request_id)
        self.preempted[request_id] = record
        self.waiting[request_id] = record.request
        return record.request

    def snapshot(self) -> dict[str, Any]:
        """The state as JSON values; order of waiting requests included."""
        return {
            "waiting": [request_to(request) for request in self.waiting.values()],
            "running": [_record_to(record) for record in self.running.values()],
            "preempted": [_record_to(record) for record in self.preempted.values()],
            "since": dict(self.since),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over a state that `snapshot` gave."""
        self.waiting = {values["id"]: request_from(values) for values in state["waiting"]}
        self.running = {values["request"]["id"]: _record_from(values) for values in state["running"]}
        self.preempted = {values["request"]["id"]: _record_from(values) for values in state["preempted"]}
        self.since = dict(state["since"])


def _record_to(record: Running) -> dict[str, Any]:
    return asdict(record)


def _record_from(values: dict[str, Any]) -> Running:
    return Running(**{**values, "request": request_from(values["request"])})
