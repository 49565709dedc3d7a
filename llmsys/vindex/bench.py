"""The index beside its peers in faiss, on one workload: microseconds per query, recall, memory, seconds to build.

Peers: a flat index per tenant (copies), one IVF index and one HNSW index with the tenant's bitmap as a selector. All
answer the same held-back queries one by one, on one thread, against the same exact ground truth; the index is also
given the whole batch. Peers are called from Python, which costs each of them some microseconds per query.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import numpy as np

from llmsys.gpu import measure, require
from llmsys.vindex.arrays import I64
from llmsys.vindex.figures import figures
from llmsys.vindex.index import Index
from llmsys.vindex.scan import Effort
from llmsys.vindex.workload import Workload

__all__ = ["BenchRow", "Contender", "compare"]

EFFORTS = (1, 3, 5, 7)
PROBES = (8, 16, 32)
SEARCH_WIDTHS = (64, 256, 1024)
RUNS = 3
LINKS = 16

Answer = Callable[[int], I64]


class BenchRow(msgspec.Struct, frozen=True):
    """One setting of one system; overhead_mb counts bytes beyond one copy of the vectors."""

    system: str
    setting: str
    us_per_query: float
    recall: float
    overhead_mb: float
    build_s: float


@dataclass(frozen=True, slots=True, eq=False)
class Contender:
    """One setting of one system: bytes beyond the vectors, seconds to build, and answers [m, k] to all queries."""

    system: str
    setting: str
    overhead_bytes: int
    build_s: float
    answers: Callable[[], I64]


def compare(work: Workload, *, k: int, seed: int) -> Iterator[BenchRow]:
    """One row per system and setting. Raises Unavailable where faiss is missing."""
    require("faiss").omp_set_num_threads(1)
    with TemporaryDirectory() as place:
        start = time.perf_counter()
        with Index.build(Path(place) / "idx", work.vectors, None, work.access, seed=seed) as index:
            build_s = time.perf_counter() - start
            truth = index.search(work.queries, work.tenants, k, recall=None).ids
            yield from (_row(one, truth) for one in _own(index, work, k, build_s))
        rows = work.rows_of()
        for system in (_flat, _inverted, _graph):
            yield from (_row(one, truth) for one in system(work, rows, k))


def _row(one: Contender, truth: I64) -> BenchRow:
    found = one.answers()
    taken = measure(one.answers, runs=RUNS, warmup=0).min_s
    hits = [np.isin(right[right >= 0], mine).mean() for right, mine in zip(truth, found, strict=True)]
    return BenchRow(
        system=one.system,
        setting=one.setting,
        us_per_query=taken / len(truth) * 1e6,
        recall=float(np.mean(hits)),
        overhead_mb=one.overhead_bytes / 1e6,
        build_s=one.build_s,
    )


def _own(index: Index, work: Workload, k: int, build_s: float) -> Iterator[Contender]:
    """The index at several efforts: all queries in one call, and one call for each."""
    overhead = figures(index).bytes["overhead"]
    for level in (*EFFORTS, None):
        effort = None if level is None else Effort.level(level, k)
        setting = "exact" if level is None else f"effort {level}"
        together = partial(_together, index, work, k, effort)
        yield Contender("vindex, one call", setting, overhead, build_s, together)
        alone = partial(_alone, index, work, k, effort)
        yield Contender("vindex, a call each", setting, overhead, build_s, partial(_each, alone, len(work.queries)))


def _together(index: Index, work: Workload, k: int, effort: Effort | None) -> I64:
    found: I64 = index.search(work.queries, work.tenants, k, recall=None, effort=effort).ids
    return found


def _alone(index: Index, work: Workload, k: int, effort: Effort | None, row: int) -> I64:
    query = work.queries[row : row + 1]
    found: I64 = index.search(query, work.tenants[row], k, recall=None, effort=effort).ids[0]
    return found


def _each(answer: Answer, count: int) -> I64:
    return np.stack([answer(row) for row in range(count)])


def _flat(work: Workload, rows: dict[str, I64], k: int) -> Iterator[Contender]:
    """faiss: a flat index per tenant, with a copy of its vectors."""
    faiss = require("faiss")
    start = time.perf_counter()
    flat = {name: faiss.IndexFlatIP(work.vectors.shape[1]) for name in rows}
    for name, mine in rows.items():
        flat[name].add(work.vectors[mine])
    build_s = time.perf_counter() - start
    copies = sum(len(mine) for mine in rows.values()) - len(work.vectors)

    def answer(row: int) -> I64:
        name = work.tenants[row]
        found = flat[name].search(work.queries[row : row + 1], k)[1][0]
        return np.where(found >= 0, rows[name][found], -1)

    overhead = copies * work.vectors.shape[1] * work.vectors.itemsize
    yield Contender("faiss flat per tenant", "", overhead, build_s, partial(_each, answer, len(work.queries)))


def _inverted(work: Workload, rows: dict[str, I64], k: int) -> Iterator[Contender]:
    """faiss: one IVF index, the tenant's bitmap as a selector."""
    faiss = require("faiss")
    count, dim = work.vectors.shape
    lists = max(1, min(512, count // 64))
    start = time.perf_counter()
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, lists, faiss.METRIC_INNER_PRODUCT)
    index.train(work.vectors)
    index.add(work.vectors)
    build_s = time.perf_counter() - start
    overhead = 8 * count + 4 * lists * dim

    def parameters(selector: object, probes: int) -> object:
        return faiss.SearchParametersIVF(sel=selector, nprobe=probes)

    for probes in sorted({min(lists, number) for number in PROBES}):
        chosen = partial(parameters, probes=probes)
        yield _selected("faiss IVF + bitmap", f"nprobe {probes}", index, chosen, work, rows, k, overhead, build_s)


def _graph(work: Workload, rows: dict[str, I64], k: int) -> Iterator[Contender]:
    """faiss: one HNSW graph, the tenant's bitmap as a selector."""
    faiss = require("faiss")
    count, dim = work.vectors.shape
    start = time.perf_counter()
    index = faiss.IndexHNSWFlat(dim, LINKS, faiss.METRIC_INNER_PRODUCT)
    index.add(work.vectors)
    build_s = time.perf_counter() - start

    def parameters(selector: object, width: int) -> object:
        return faiss.SearchParametersHNSW(sel=selector, efSearch=width)

    for width in SEARCH_WIDTHS:
        chosen = partial(parameters, width=width)
        overhead = 4 * 2 * LINKS * count
        yield _selected("faiss HNSW + bitmap", f"ef {width}", index, chosen, work, rows, k, overhead, build_s)


def _selected(  # noqa: PLR0917
    system: str,
    setting: str,
    index: Any,  # noqa: ANN401
    parameters: Callable[[object], object],
    work: Workload,
    rows: dict[str, I64],
    k: int,
    overhead: int,
    build_s: float,
) -> Contender:
    """A shared index searched under each tenant's bitmap, which is built beforehand and counted as memory."""
    faiss = require("faiss")
    count = len(work.vectors)
    bitmaps = {}
    for name in set(work.tenants):
        mask = np.zeros(count, np.bool_)
        mask[rows[name]] = True
        bitmaps[name] = np.packbits(mask, bitorder="little")
    selectors = {name: parameters(faiss.IDSelectorBitmap(bitmap)) for name, bitmap in bitmaps.items()}

    def answer(row: int) -> I64:
        chosen = selectors[work.tenants[row]]
        found: I64 = index.search(work.queries[row : row + 1], k, params=chosen)[1][0]
        return found

    total = overhead + len(rows) * -(-count // 8)
    return Contender(system, setting, total, build_s, partial(_each, answer, len(work.queries)))
