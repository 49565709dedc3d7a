"""An open index as a service: requests in, answers out, for many callers at once. Knows no HTTP.

Searches run side by side; changes take turns, and each is durable before it is answered. A caller that speaks for one
tenant sees what that tenant sees, and nothing that is said to it depends on anything else.
"""

import threading
from collections import Counter
from collections.abc import Sequence

import msgspec
import numpy as np

from llmsys.errors import BadInput, LlmsysError
from llmsys.vindex.access_tokens import Caller
from llmsys.vindex.changes import ChangeRecord, make_change
from llmsys.vindex.figures import figures, tenant_figures
from llmsys.vindex.index import Index
from llmsys.vindex.search import Hits
from llmsys.vindex.slot_store import Id
from llmsys.vindex.where import labels, parse

__all__ = ["Forbidden", "Neighbours", "SearchRequest", "Service"]

MOST_QUERIES = 10_000


class Forbidden(LlmsysError):
    """A caller that asks for what only an administrator, or another tenant, may."""


class SearchRequest(msgspec.Struct, frozen=True):
    """A search of one vector or several, as one tenant or as one for each; None is the caller's own, or all."""

    vector: list[float] | None = None
    vectors: list[list[float]] | None = None
    tenant: str | None = None
    tenants: list[str] | None = None
    where: str | None = None
    k: int = 10
    recall: float | None = 0.95


class Neighbours(msgspec.Struct, frozen=True):
    """The answer to one query."""

    ids: list[Id]
    distances: list[float]


class Service:
    """An index that answers callers; it is open for writing as long as the service lives."""

    def __init__(self, index: Index) -> None:
        self.index = index
        self.counts: Counter[str] = Counter()
        self._turn = threading.Lock()

    def search(self, request: SearchRequest, caller: Caller) -> tuple[int, list[Neighbours]]:
        """The number of the last operation known, and the neighbours of each query.

        Raises Forbidden for another tenant's view, BadInput and UsageFault for what does not fit.
        """
        if (request.vector is None) == (request.vectors is None):
            raise BadInput("search", "neither `vector` nor `vectors`, or both", "one of them")
        queries = [request.vector] if request.vector is not None else request.vectors or []
        if not 0 < len(queries) <= MOST_QUERIES or len({len(query) for query in queries}) != 1:
            raise BadInput("vectors", f"{len(queries)} of them", f"1 to {MOST_QUERIES}, of one length")
        whose = self._whose(request, caller)
        hits = self.hits(queries, whose, caller, k=request.k, where=request.where, recall=request.recall)
        return hits.seq, [Neighbours(*hits.row(row)) for row in range(len(queries))]

    def hits(
        self,
        queries: list[list[float]],
        whose: str | Sequence[str | None] | None,
        caller: Caller,
        *,
        k: int,
        where: str | None = None,
        recall: float | None = 0.95,
    ) -> Hits:
        """A search with the caller's right to see `whose` vectors established.

        Raises Forbidden for a predicate by which a tenant would learn what others share with it.
        """
        if where is not None and not caller.admin and not labels(parse(where)) <= {caller.tenant}:
            raise Forbidden("a predicate over other labels needs an administrator's token")
        self.counts["searches"] += len(queries)
        return self.index.search(np.array(queries), whose, k, where=where, recall=recall)

    def tenants_of(self, ids: Sequence[Id], caller: Caller) -> list[list[str]]:
        """Who sees vectors, as far as the caller may know: a tenant, itself alone."""
        if not caller.admin:
            return [[caller.tenant or ""] for _ in ids]
        with self.index.guard:
            state = self.index.state
            slots = [state.store.slot_of.get(one, -1) for one in ids]
            return [state.tenants_of(slot) if slot >= 0 else [] for slot in slots]

    def apply(self, changes: Sequence[ChangeRecord], caller: Caller) -> int:
        """Make changes, durable together; the number of the last operation. Raises Forbidden, and BadInput.

        What comes before a change that does not fit is kept.
        """
        self._admin(caller)
        with self._turn, self.index.batch():
            for number, change in enumerate(changes, 1):
                make_change(self.index, change, f"change {number}")
                self.counts["changes"] += 1
            return self.index.seq

    def stats(self, caller: Caller, tenant: str | None) -> object:
        """Figures of the index for an administrator, of a tenant for itself."""
        asked = caller.tenant if not caller.admin else tenant
        if not caller.admin and tenant not in (None, caller.tenant):
            raise Forbidden("this token speaks for another tenant")
        with self.index.guard:
            return figures(self.index) if asked is None else tenant_figures(self.index, asked)

    def _whose(self, request: SearchRequest, caller: Caller) -> str | Sequence[str] | None:
        asked = request.tenants if request.tenants is not None else request.tenant
        if caller.admin:
            return asked
        if set(request.tenants or ()) | {request.tenant} <= {None, caller.tenant}:
            return caller.tenant
        raise Forbidden("this token speaks for another tenant")

    def _admin(self, caller: Caller) -> None:
        if not caller.admin:
            raise Forbidden("this needs an administrator's token")
