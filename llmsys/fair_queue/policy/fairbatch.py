"""Not an order but a batch former: how much prefill may join a decode step so that tokens come in time.

The k-th output token of a request is due k tbt_s after its first; a request that is ahead has slack, and the least
slack in the batch is what a step may take (FairBatching, arXiv 2510.14392: abstract read). The order is another
policy's.
"""

from collections.abc import Callable
from typing import Any

from llmsys.fair_queue.policy.protocol import CacheAware, Decision, Policy, Request

__all__ = ["SlackBatching"]


class SlackBatching:
    """Lends the decodes' slack to prefill; at least `floor` prompt tokens join, so that late decodes starve nobody."""

    def __init__(self, inner: Policy, *, tbt_s: float, floor: int) -> None:
        self._inner = inner
        self._tbt_s = tbt_s
        self._floor = floor
        self._decoding: dict[str, tuple[float, int]] = {}

    def prefill_tokens(self, now_s: float, *, decode_s: float, token_s: float) -> int:
        """What the least slack pays for, in whole tokens; without decodes there is no limit but the caller's."""
        if not self._decoding:
            return 1 << 40
        due_s = min(first_s + count * self._tbt_s for first_s, count in self._decoding.values())
        if token_s <= 0.0:
            return 1 << 40 if due_s - now_s >= decode_s else self._floor
        return max(int((due_s - now_s - decode_s) / token_s), self._floor)

    def arrive(self, request: Request, now_s: float) -> Decision:
        """Ask the inner policy."""
        return self._inner.arrive(request, now_s)

    def admit(self, now_s: float, fits: Callable[[Request], bool]) -> list[Request]:
        """Ask the inner policy."""
        return self._inner.admit(now_s, fits)

    def tokens(self, request_id: str, n: int, now_s: float) -> None:
        """Note when the request's tokens came."""
        self._inner.tokens(request_id, n, now_s)
        first_s, count = self._decoding.get(request_id, (now_s, 0))
        self._decoding[request_id] = first_s, count + n

    def cached(self, request_id: str, tokens: int, now_s: float) -> None:
        """Pass on how much of a prompt was cached, where the inner policy wants to know."""
        if isinstance(self._inner, CacheAware):
            self._inner.cached(request_id, tokens, now_s)

    def finish(self, request_id: str, now_s: float) -> None:
        """End a running request."""
        self._inner.finish(request_id, now_s)
        self._decoding.pop(request_id, None)

    def cancel(self, request_id: str, now_s: float) -> None:
        """End a request wherever it is."""
        self._inner.cancel(request_id, now_s)
        self._decoding.pop(request_id, None)

    def preempted(self, request_id: str, now_s: float) -> None:
        """Return a running request to the queue; its next token starts the count anew."""
        self._inner.preempted(request_id, now_s)
        self._decoding.pop(request_id, None)

    def snapshot(self) -> dict[str, Any]:
        """The state as JSON values."""
        decoding = [[name, first_s, count] for name, (first_s, count) in self._decoding.items()]
        return {"inner": self._inner.snapshot(), "decoding": decoding}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over a snapshot of a policy with the same options and weights."""
        self._inner.restore(state["inner"])
        self._decoding = {name: (first_s, count) for name, first_s, count in state["decoding"]}
