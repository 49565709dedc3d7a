"""Deficit longest prefix match: locality first, among tenants that have credit (Cao et al., arXiv 2501.14312).

Requests go by how much of their prompt is likely to be cached, most first; a tenant may start one while its credit is
positive. Only prompt tokens that are not cached, and output tokens, are debited. When nobody who waits has credit, all
who wait get a quantum. Title and abstract were read, the rules are recalled.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from llmsys.fair_queue.policy.backlog import Backlog
from llmsys.fair_queue.policy.cost import LinearCost
from llmsys.fair_queue.policy.prefixes import RecentPrefixes, matched_tokens
from llmsys.fair_queue.policy.protocol import QUEUED, Decision, Request
from llmsys.fair_queue.policy.spec import check_weights

__all__ = ["DeficitLongestPrefixMatch"]


class DeficitLongestPrefixMatch:
    """Longest prefix first among tenants in credit; a positive credit is lost when the tenant's queue empties.

    What is cached is guessed from the last `capacity` blocks of `block_tokens` tokens; `cached` corrects the debit.
    """

    def __init__(
        self,
        quantum: float,
        *,
        cost: LinearCost,
        block_tokens: int,
        capacity: int,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        self._quantum = quantum
        self._cost = cost
        self._block_tokens = block_tokens
        self._weights = check_weights(weights)
        self._backlog = Backlog()
        self._credit: dict[str, float] = {}
        self._waiting: Counter[str] = Counter()
        self._prefixes = RecentPrefixes(capacity)

    def arrive(self, request: Request, now_s: float) -> Decision:
        """Queue the request."""
        self._backlog.queue(request, now_s)
        self._credit.setdefault(request.tenant, 0.0)
        self._waiting[request.tenant] += 1
        return QUEUED

    def admit(self, now_s: float, fits: Callable[[Request], bool]) -> list[Request]:
        """Admit until the request whose turn it is does not fit; matches are taken once, at the start."""
        # a request that ran before goes first: it has lost its place once
        order = sorted(
            self._backlog.waiting.values(),
            key=lambda request: (request.id in self._backlog.since, -self._prefixes.match(request.prefix)),
        )
        admitted: list[Request] = []
        while order:
            if not any(self._credit[tenant] > 0 for tenant in self._waiting):
                self._refill()
            place = next(place for place, request in enumerate(order) if self._credit[request.tenant] > 0)
            if not fits(order[place]):
                break
            admitted.append(self._start(order.pop(place), now_s))
        return admitted

    def tokens(self, request_id: str, n: int, now_s: float) -> None:
        """Debit n output tokens."""
        record = self._backlog.record(request_id)
        record.generated += n
        self._credit[record.request.tenant] -= self._cost.wq * n

    def cached(self, request_id: str, tokens: int, now_s: float) -> None:
        """Debit the prompt as if so many of its tokens had been cached, in place of the guess."""
        record = self._backlog.record(request_id)
        self._credit[record.request.tenant] += self._cost.wp * (tokens - record.cached_tokens)
        record.cached_tokens = tokens

    def finish(self, request_id: str, now_s: float) -> None:
        """Forget a running request."""
        self._backlog.end(request_id)

    def cancel(self, request_id: str, now_s: float) -> None:
        """Forget a waiting or running request."""
        if request_id in self._backlog.running:
            self._backlog.end(request_id)
            return
        request, _ = self._backlog.leave(request_id)
        self._leaves_queue(request.tenant)

    def preempted(self, request_id: str, now_s: float) -> None:
        """Return a running request to the queue, ahead of those that have not run."""
        self._waiting[self._backlog.put_back(request_id).tenant] += 1

    def snapshot(self) -> dict[str, Any]:
        """The state as JSON values."""
        return {
            "backlog": self._backlog.snapshot(),
            "credit": dict(self._credit),
            "prefixes": self._prefixes.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over a snapshot of a policy with the same options and weights."""
        self._backlog.restore(state["backlog"])
        self._credit = dict(state["credit"])
        self._waiting = Counter(request.tenant for request in self._backlog.waiting.values())
        self._prefixes.restore(state["prefixes"])

    def _start(self, request: Request, now_s: float) -> Request:
        record, first = self._backlog.start(request, now_s)
        if first:
            matched = self._prefixes.match(request.prefix)
            record.cached_tokens = matched_tokens(matched, self._block_tokens, request.prompt_tokens)
            self._credit[request.tenant] -= self._cost.wp * (request.prompt_tokens - record.cached_tokens)
        self._prefixes.use(request.prefix)
        self._leaves_queue(request.tenant)
        return request

    def _leaves_queue(self, tenant: str) -> None:
        self._waiting[tenant] -= 1
        if not self._waiting[tenant]:
            del self._waiting[tenant]
            self._credit[tenant] = min(self._credit[tenant], 0.0)

    def _refill(self) -> None:
        """Give every waiting tenant as many quanta as the first needs to be in credit."""
        shares = {tenant: self._quantum * self._weights.get(tenant, 1.0) for tenant in self._waiting}
        rounds = min(-self._credit[tenant] // share for tenant, share in shares.items()) + 1
        for tenant, share in shares.items():
            self._credit[tenant] += rounds * share
