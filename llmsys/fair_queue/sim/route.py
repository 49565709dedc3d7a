"""Which replica an arrival goes to: the fewest requests, the tenant's own, or locality within the tenant's credit.

Every replica has its own queue and policy; a request stays where it was sent. Knows no time.
"""

from collections.abc import Sequence
from hashlib import blake2b
from typing import Protocol

from llmsys.artifacts import TraceRecord
from llmsys.fair_queue.policy import LinearCost, RecentPrefixes, matched_tokens

__all__ = ["Route", "make_route"]

QUANTUM = 500.0
BLOCKS = 4096


class Route(Protocol):
    """Chooses a replica; `loads` are requests that wait or run at each."""

    def choose(self, record: TraceRecord, loads: Sequence[int]) -> int: ...

    def ended(self, record: TraceRecord, replica: int) -> None: ...


def make_route(name: str, replicas: int, *, block_tokens: int) -> Route:
    """The route of this name, one of `machine.ROUTES`."""
    if name == "d2lpm":
        return _Locality(replicas, block_tokens)
    return _ByTenant() if name == "hash" else _Least()


class _Least:
    """The replica with the fewest requests, the first of them among equals."""

    def choose(self, record: TraceRecord, loads: Sequence[int]) -> int:
        return min(range(len(loads)), key=lambda replica: loads[replica])

    def ended(self, record: TraceRecord, replica: int) -> None:
        """Nothing to remember."""


class _ByTenant:
    """A hash of the tenant, the same in every process."""

    def choose(self, record: TraceRecord, loads: Sequence[int]) -> int:
        return int.from_bytes(blake2b(record.tenant.encode(), digest_size=8).digest(), "big") % len(loads)

    def ended(self, record: TraceRecord, replica: int) -> None:
        """Nothing to remember."""


class _Locality:
    """D2LPM: longest prefix match among the replicas where the tenant has credit (Cao et al., arXiv 2501.14312).

    Credit is per tenant and replica; uncached prompt tokens and outputs are debited there; where none is left, every
    replica gets a quantum. Ties go to the fewest requests. The rules are recalled from the paper's abstract.
    """

    def __init__(self, replicas: int, block_tokens: int) -> None:
        self._block_tokens = block_tokens
        self._prefixes = [RecentPrefixes(BLOCKS) for _ in range(replicas)]
        self._credit: dict[str, list[float]] = {}
        self._cost = LinearCost()

    def choose(self, record: TraceRecord, loads: Sequence[int]) -> int:
        credit = self._credit.setdefault(record.tenant, [QUANTUM] * len(loads))
        if max(credit) <= 0:
            rounds = -max(credit) // QUANTUM + 1
            credit[:] = [one + rounds * QUANTUM for one in credit]
        matches = [prefixes.match(record.prefix) for prefixes in self._prefixes]
        open_to = [replica for replica, one in enumerate(credit) if one > 0]
        chosen = min(open_to, key=lambda replica: (-matches[replica], loads[replica]))
        cached = matched_tokens(matches[chosen], self._block_tokens, record.prompt_tokens)
        credit[chosen] -= self._cost(record.prompt_tokens - cached, 0)
        self._prefixes[chosen].use(record.prefix)
        return chosen

    def ended(self, record: TraceRecord, replica: int) -> None:
        """Debit the output where it was made."""
        self._credit[record.tenant][replica] -= self._cost(0, record.output_tokens)
