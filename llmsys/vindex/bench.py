"""The index beside its peers on one workload: recall, speed and memory of every setting.

All answer the same queries on one thread against the same exact truth: first the workload's own tenants, then labels
that hold one vector, ten, a hundred … up to all. What a query must read at least, over what the machine reads in a
second, is the limit that a row's time is compared with.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import numpy as np

from llmsys.errors import Unavailable, UsageFault
from llmsys.gpu import measure, measure_ceilings, require
from llmsys.vindex.arrays import I64
from llmsys.vindex.bench_targets import BenchRow, Target, targets
from llmsys.vindex.contender import Contender, Peer, Trial
from llmsys.vindex.faiss_peers import FAISS_PEERS
from llmsys.vindex.figures import figures
from llmsys.vindex.index import Index
from llmsys.vindex.other_peers import NOT_COMPARED, OTHER_PEERS
from llmsys.vindex.scan import Effort
from llmsys.vindex.server_peers import PGVECTOR, STORE_PEERS, pgvector_peer
from llmsys.vindex.tuning import tune
from llmsys.vindex.workload import Workload

__all__ = ["PEER_NAMES", "Comparison", "compare", "pareto", "shown"]

LEVELS = (0, 1, 2, 3, 4, 5, 6)
TUNED = (0.95, 0.99)
TUNED_SAMPLE = 500
RUNS = 3
FEW = 20
PEERS = FAISS_PEERS + OTHER_PEERS + STORE_PEERS
PEER_NAMES = (*(peer.name for peer in PEERS), PGVECTOR)

OnRow = Callable[[BenchRow], None]


class Comparison(msgspec.Struct, frozen=True):
    """Rows of all systems, the targets, and why each system that is missing is."""

    rows: list[BenchRow]
    targets: list[Target]
    missing: dict[str, str]


def compare(
    work: Workload,
    *,
    k: int,
    seed: int,
    peers: Sequence[str] = PEER_NAMES,
    pg: str | None = None,
    on_row: OnRow | None = None,
) -> Comparison:
    """Measure the index and the named peers, pgvector at the connection string `pg`.

    Raises UsageFault for a peer that is none, Unavailable without faiss.
    """
    unknown = sorted(set(peers) - set(PEER_NAMES))
    if unknown:
        raise UsageFault(f"no peer {unknown[0]!r}; peers: {', '.join(PEER_NAMES)}")
    require("faiss").omp_set_num_threads(1)
    missing, found = dict(NOT_COMPARED), []
    with TemporaryDirectory() as place:
        start = time.perf_counter()
        with Index.build(Path(place) / "idx", work.vectors, None, work.access, seed=seed) as index:
            build_s = time.perf_counter() - start
            overhead = figures(index).bytes["overhead"]
            trial = Trial(work, k, _labels(len(work.vectors), seed))
            bench = _Bench(trial, _truth(index, trial), _read_bytes_s())
            theirs = chain.from_iterable(
                _contenders(peer, trial, missing) for peer in (*PEERS, pgvector_peer(pg)) if peer.name in peers
            )
            for contender in chain(_own(index, trial, overhead, build_s, seed), theirs):
                for row in bench.rows(contender):
                    found.append(row)
                    if on_row is not None:
                        on_row(row)
            rows = [_beside(row, found) for row in found]
            return Comparison(rows, targets(rows, index, trial, seed=seed), missing)


def shown(rows: Sequence[BenchRow]) -> list[dict[str, str | float | None]]:
    """Rows of a table that fits a page: microseconds, recall, bytes per vector, MB beyond the vectors, ratios."""
    return [
        {
            "system": row.system,
            "setting": row.setting,
            "visible": row.visible,
            "us": row.us_per_query,
            "recall": row.recall,
            "B/vec": row.bytes_per_vector,
            "MB": row.overhead_mb,
            "build": row.build_s,
            "x limit": row.times_limit,
            "x vindex": row.times_vindex,
        }
        for row in rows
    ]


def pareto(rows: Sequence[BenchRow]) -> Iterator[tuple[str, list[float], list[float]]]:
    """Name, recalls and microseconds of every system for the workload's own tenants, by recall."""
    for system in dict.fromkeys(row.system for row in rows):
        own = [row for row in rows if row.system == system and row.visible == "own tenants"]
        points = sorted((row.recall, row.us_per_query) for row in own)
        yield system, [recall for recall, _ in points], [us for _, us in points]


@dataclass(frozen=True, slots=True, eq=False)
class _Bench:
    """Judges contenders by the truth [asked, k] and by what the machine reads in a second."""

    trial: Trial
    truth: I64
    read_bytes_s: float

    def rows(self, one: Contender) -> Iterator[BenchRow]:
        """One row for every group of queries."""
        for group, asked in self.trial.groups.items():
            numbers = asked[:: max(1, len(asked) // FEW)] if one.slow else asked
            found = one.answers(numbers)
            taken = measure(partial(one.answers, numbers), runs=1 if one.slow else RUNS, warmup=0).min_s
            us = taken / len(numbers) * 1e6
            pairs = zip(self.truth[numbers], found, strict=True)
            size, vectors = self.trial.work.vectors.nbytes + one.overhead_bytes, len(self.trial.work.vectors)
            limit = None if one.touched is None else one.touched(numbers) / self.read_bytes_s * 1e6
            yield BenchRow(
                system=one.system,
                setting=one.setting,
                visible=group,
                us_per_query=us,
                qps=1e6 / us,
                recall=float(np.mean([np.isin(right[right >= 0], mine).mean() for right, mine in pairs])),
                bytes_per_vector=size / vectors,
                overhead_mb=one.overhead_bytes / 1e6,
                build_s=one.build_s,
                times_limit=None if limit is None else us / limit,
            )


def _beside(row: BenchRow, found: Sequence[BenchRow]) -> BenchRow:
    """The row with its time as a multiple of the index's fastest setting that finds as much."""
    ours = [
        one.us_per_query
        for one in found
        if one.system == "vindex" and one.visible == row.visible and one.recall >= row.recall - 1e-9
    ]
    return msgspec.structs.replace(row, times_vindex=row.us_per_query / min(ours)) if ours else row


def _labels(count: int, seed: int) -> dict[str, I64]:
    """Rows of labels that one vector carries, ten, a hundred … and all."""
    order = np.random.default_rng(seed).permutation(count)
    sizes = [10**power for power in range(10) if 10**power < count] + [count]
    return {f"{size} of {count}": np.sort(order[:size]) for size in sizes}


def _truth(index: Index, trial: Trial) -> I64:
    """The exact answers [asked, k]; gives the index the labels on the way, which only the truth and labels need."""
    with index.batch():
        for label, rows in trial.labels.items():
            index.grant(rows.tolist(), label)
    numbers = range(len(trial.asked))
    queries = np.concatenate([trial.query(number) for number in numbers])
    found: I64 = index.search(queries, [trial.tenant(number) for number in numbers], trial.k, recall=None).ids
    return found


def _read_bytes_s() -> float:
    torch = require("torch")
    torch.set_num_threads(1)
    return measure_ceilings(torch.device("cpu"), budget_s=1.0, dtypes=()).read_bytes_s


def _contenders(peer: Peer, trial: Trial, missing: dict[str, str]) -> Iterator[Contender]:
    """The settings of a peer; nothing, and the reason, where its package is not there or the workload too large."""
    if trial.grants > peer.most_grants:
        missing[peer.name] = f"{trial.grants} grants; it is tried with {peer.most_grants} at most, for its time"
        return
    try:
        require(peer.package)
        yield from peer.contenders(trial)
    except Unavailable as error:
        missing[peer.name] = str(error)


def _own(index: Index, trial: Trial, overhead: int, build_s: float, seed: int) -> Iterator[Contender]:
    """The index at several efforts, tuned, and exact; all queries in one call, and one call for each."""
    for wanted in TUNED:
        index.keep_plans(tune(index.state, recall=wanted, k=trial.k, sample=TUNED_SAMPLE, seed=seed))
    asked: list[tuple[str, Effort | None, float | None]] = [
        *((f"effort {level}", Effort.level(level, trial.k), None) for level in LEVELS),
        *((f"recall {recall}", None, recall) for recall in TUNED),
        ("exact", None, None),
    ]
    for setting, effort, recall in asked:
        together = partial(_together, index, trial, effort, recall)
        alone = partial(_alone, index, trial, effort, recall)
        touched = partial(_touched, index, trial, effort, recall)
        yield Contender("vindex", setting, overhead, build_s, together, touched)
        yield Contender("vindex, a call each", setting, overhead, build_s, alone, touched)


def _together(index: Index, trial: Trial, effort: Effort | None, recall: float | None, numbers: Sequence[int]) -> I64:
    queries = np.concatenate([trial.query(number) for number in numbers])
    names = [trial.tenant(number) for number in numbers]
    found: I64 = index.search(queries, names, trial.k, recall=recall, effort=effort).ids
    return found


def _alone(index: Index, trial: Trial, effort: Effort | None, recall: float | None, numbers: Sequence[int]) -> I64:
    calls = [
        index.search(trial.query(number), trial.tenant(number), trial.k, recall=recall, effort=effort).ids[0]
        for number in numbers
    ]
    return np.stack(calls)


def _touched(index: Index, trial: Trial, effort: Effort | None, recall: float | None, numbers: Sequence[int]) -> float:
    """Bytes that a query must read: a slot and a coded row for each vector looked at, then the kept vectors."""
    queries = np.concatenate([trial.query(number) for number in numbers])
    names = [trial.tenant(number) for number in numbers]
    hits = index.search(queries, names, trial.k, recall=recall, effort=effort)
    whole, coded = 4 * int(trial.work.vectors.shape[1]), int(index.state.store.codes.shape[1])
    looked_at: float = int(hits.scanned.sum()) / len(numbers)
    return looked_at * (4 + coded) + Effort.level(0, trial.k).width * whole
