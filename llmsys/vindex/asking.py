"""Queries from files and streams, answered in order: in pieces where they are all there, one by one from stdin."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from llmsys.artifacts import Query, read_queries
from llmsys.errors import BadInput, UsageFault
from llmsys.vindex.index import Index
from llmsys.vindex.scan import Effort
from llmsys.vindex.sources import read_names

__all__ = ["Asker", "answer", "chosen_effort"]

PIECE = 1024


@dataclass(frozen=True, slots=True)
class Asker:
    """An open index and how it is to be searched; see `Index.search`."""

    index: Index
    k: int
    where: str | None
    recall: float | None
    effort: Effort | None
    explain: bool


def chosen_effort(
    index: Index, *, k: int, recall: float, exact: bool, effort: int | None, warn: Callable[[str], None]
) -> Effort | None:
    """The effort of a level; None where --exact or a plan decides. Raises UsageFault for two wishes at once."""
    if exact and effort is not None:
        raise UsageFault("--exact and --effort contradict each other; expected one of them")
    if effort is not None:
        return Effort.level(effort, k)
    if not exact and not any(plan.recall >= recall and plan.k >= k for plan in index.plans):
        warn(f"no plan for recall {recall:g} at k {k}: searching exactly; `vindex tune` measures one")
    return None


def answer(
    asker: Asker, queries: str, *, tenant: str | None, tenants: str | None, everything: bool
) -> Iterator[dict[str, object]]:
    """One record per query, in order: query, tenant, ids, distances; `scanned` if explained.

    A query's tenant is `tenant`, or its line of the file `tenants`, or its own. Raises UsageFault for two of these at
    once, BadInput for a query that has none unless `everything` lets it see all vectors.
    """
    if sum((tenant is not None, tenants is not None, everything)) > 1:
        raise UsageFault("--tenant, --tenants and --all contradict each other; expected one of them")
    names = None if tenants is None else read_names(tenants)
    source = read_queries(queries, dim=asker.index.state.store.vectors.shape[1])
    asked = 0
    while piece := list(islice(source, 1 if queries == "-" else PIECE)):
        whose = [tenant or (None if everything else _tenant_of(query, queries, names, tenants)) for query in piece]
        yield from _answers(asker, piece, whose)
        asked += len(piece)
    if names is not None and len(names) != asked:
        raise BadInput(str(tenants), f"{len(names)} tenants for {asked} queries", "one for each")


def _tenant_of(query: Query, source: str, names: list[str] | None, where: str | None) -> str:
    if names is not None:
        if query.number >= len(names):
            raise BadInput(str(where), f"{len(names)} tenants and more queries", "one for each")
        return names[query.number]
    if query.tenant is None:
        raise BadInput(f"{source}: query {query.number}", "no tenant", "`tenant` in the line, --tenant, or --all")
    return query.tenant


def _answers(asker: Asker, piece: list[Query], whose: list[str | None]) -> Iterator[dict[str, object]]:
    hits = asker.index.search(
        np.stack([query.vector for query in piece]),
        whose,
        asker.k,
        where=asker.where,
        recall=asker.recall,
        effort=asker.effort,
    )
    for row, (query, tenant) in enumerate(zip(piece, whose, strict=True)):
        ids, distances = hits.row(row)
        record: dict[str, object] = {"query": query.id, "tenant": tenant, "ids": ids, "distances": _short(distances)}
        yield record | ({"scanned": int(hits.scanned[row])} if asker.explain else {})


def _short(distances: list[float]) -> list[np.float32]:
    """As float32 again, which JSON writes with no more digits than it has."""
    return [np.float32(one) for one in distances]
