"""Queries from files and streams, answered in order: in pieces where they are all there, one by one from stdin.

Answers are records, or arrays in files. Knows no command line.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from llmsys.artifacts import Query, encode, read_queries, replace_file, write_npy
from llmsys.errors import BadInput, UsageFault
from llmsys.vindex.index import Index
from llmsys.vindex.scan import Effort
from llmsys.vindex.search import Hits
from llmsys.vindex.sources import read_names

__all__ = ["Asker", "answer", "chosen_effort", "chosen_threads", "write_answers"]

PIECE = 1024


@dataclass(frozen=True, slots=True)
class Asker:
    """An open index and how it is to be searched; see `Index.search`."""

    index: Index
    k: int
    where: str | None
    recall: float | None
    effort: Effort | None
    explain: bool = False
    threads: int = 1
    max_distance: float | None = None
    follow: bool = False


def chosen_effort(
    index: Index, *, k: int, recall: float, exact: bool, effort: int | None, warn: Callable[[str], None]
) -> Effort | None:
    """The effort of a level; None where --exact or a plan decides. Raises UsageFault for two wishes at once."""
    if exact and effort is not None:
        raise UsageFault("--exact and --effort contradict each other; expected one of them")
    if effort is not None:
        return Effort.level(effort, k)
    if index.device is None and not exact and not any(plan.recall >= recall and plan.k >= k for plan in index.plans):
        warn(f"no plan for recall {recall:g} at k {k}: searching exactly; `vindex tune` measures one")
    return None


def answer(
    asker: Asker, queries: str, *, tenant: str | None, tenants: str | None, everything: bool
) -> Iterator[dict[str, object]]:
    """One record per query, in order: query, tenant, ids, distances; if explained, also how they were found.

    A follower takes over what others have written before each piece of queries, and says up to which operation.

    A query's tenant is `tenant`, or its line of the file `tenants`, or its own. Raises UsageFault for two of these at
    once, BadInput for a query that has none unless `everything` lets it see all vectors.
    """
    for piece, whose, hits in _answered(asker, queries, tenant, tenants, everything=everything):
        for row, (query, name) in enumerate(zip(piece, whose, strict=True)):
            ids, distances = hits.row(row)
            record: dict[str, object] = {"query": query.id, "tenant": name, "ids": ids, "distances": _short(distances)}
            seq = {"seq": hits.seq} if asker.follow else {}
            yield record | seq | (_explained(asker, name, hits, row) if asker.explain else {})


def write_answers(
    asker: Asker, queries: str, place: Path, *, tenant: str | None, tenants: str | None, everything: bool
) -> int:
    """Write `ids.npy` [m, k] int64, -1 where there are no more (`ids.jsonl` for text), and `distances.npy` [m, k].

    Returns m. Raises as `answer` does.
    """
    found = [hits for _, _, hits in _answered(asker, queries, tenant, tenants, everything=everything)]
    ids = np.concatenate([hits.ids for hits in found] or [np.zeros((0, asker.k), np.int64)])
    distances = np.concatenate([hits.distances for hits in found] or [np.zeros((0, asker.k), np.float32)])
    place.mkdir(parents=True, exist_ok=True)
    if ids.dtype == np.int64:
        write_npy(place / "ids.npy", ids)
    else:
        with replace_file(place / "ids.jsonl") as stream:
            stream.writelines(encode([one for one in row if one is not None]) for row in ids.tolist())
    write_npy(place / "distances.npy", distances)
    return len(ids)


def chosen_threads(wanted: int) -> int:
    """A number of threads; 0 is all that the process may use."""
    if wanted:
        return wanted
    from llmsys.gpu import usable_cpus

    return usable_cpus()


Answered = tuple[list[Query], list[str | None], Hits]


def _answered(
    asker: Asker, queries: str, tenant: str | None, tenants: str | None, *, everything: bool
) -> Iterator[Answered]:
    if sum((tenant is not None, tenants is not None, everything)) > 1:
        raise UsageFault("--tenant, --tenants and --all contradict each other; expected one of them")
    names = None if tenants is None else read_names(tenants)
    source = read_queries(queries, dim=asker.index.state.store.vectors.shape[1])
    asked = 0
    while piece := list(islice(source, 1 if queries == "-" else PIECE)):
        whose = [tenant or (None if everything else _tenant_of(query, queries, names, tenants)) for query in piece]
        if asker.follow:
            asker.index.refresh()
        hits = asker.index.search(
            np.stack([query.vector for query in piece]),
            whose,
            asker.k,
            where=asker.where,
            recall=asker.recall,
            effort=asker.effort,
            threads=asker.threads,
        )
        kept = hits if asker.max_distance is None else hits.within(asker.max_distance, asker.index.state.store.metric)
        yield piece, whose, kept
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


def _explained(asker: Asker, tenant: str | None, hits: Hits, row: int) -> dict[str, object]:
    """How an answer came about: vectors looked at, of how many visible, and which search it was."""
    seen, effort = asker.index.planned(tenant, asker.k, where=asker.where, recall=asker.recall, effort=asker.effort)
    path = "exact" if effort is None else "best-first"
    detail = {} if effort is None else {"width": effort.width, "patience": effort.patience}
    return {"scanned": int(hits.scanned[row]), "visible": seen, "path": path} | detail


def _short(distances: list[float]) -> list[np.float32]:
    """As float32 again, which JSON writes with no more digits than it has."""
    return [np.float32(one) for one in distances]
