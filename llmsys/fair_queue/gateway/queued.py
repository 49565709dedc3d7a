"""What is kept of one request between its arrival and its end. Knows neither its client nor its bytes."""

from llmsys.fair_queue.gateway.accounts import Account
from llmsys.fair_queue.gateway.backend import Backend
from llmsys.fair_queue.policy import Request

__all__ = ["Queued"]


class Queued:
    """A request in the queue or at `backend`; `tokens` output tokens charged, of which `unlogged` are not in the
    journal; `uncharged` tokens were seen since.

    `units` is what its prompt's estimate was made from, for `model`.
    """

    __slots__ = (
        "account",
        "admitted_s",
        "arrived_s",
        "backend",
        "model",
        "request",
        "tokens",
        "uncharged",
        "units",
        "unlogged",
    )

    def __init__(self, request: Request, account: Account, *, model: str, units: int) -> None:
        self.request = request
        self.account = account
        self.model = model
        self.units = units
        self.backend: Backend | None = None
        self.arrived_s = 0.0
        self.admitted_s = 0.0
        self.tokens = 0
        self.uncharged = 0
        self.unlogged = 0

    @property
    def size(self) -> int:
        """The tokens that it may come to hold."""
        return self.request.prompt_tokens + self.request.max_tokens
