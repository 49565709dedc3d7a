"""The stated targets, each with what was measured and whether it is reached. They were set for the workload `glove`."""

import time
from collections.abc import Callable, Sequence
from tempfile import TemporaryDirectory

import msgspec
import numpy as np

from llmsys.artifacts import encode
from llmsys.vindex.changes import apply_changes
from llmsys.vindex.contender import Trial
from llmsys.vindex.index import Index

__all__ = ["BenchRow", "Target", "targets"]

OPERATIONS = 20_000
BULK = 1000
PRECISION = 0.95
FINE = 0.99


class BenchRow(msgspec.Struct, frozen=True):
    """One setting of one system for one group of queries.

    visible: whose queries. bytes_per_vector counts the vector itself, overhead_mb does not. times_limit: time over what
    reading the needed bytes would take; times_vindex: time over that of the index's fastest setting of such recall.
    """

    system: str
    setting: str
    visible: str
    us_per_query: float
    qps: float
    recall: float
    bytes_per_vector: float
    overhead_mb: float
    build_s: float
    times_limit: float | None
    times_vindex: float | None = None

    @property
    def line(self) -> str:
        """The row in words, for a log."""
        name = f"{self.system} {self.setting}".strip()
        return f"{name}, {self.visible}: {self.us_per_query:.1f} us, recall {self.recall:.3f}"


class Target(msgspec.Struct, frozen=True):
    """One target: what is wanted (at most, or at least), what was measured (None: nothing to measure), and whether."""

    target: str
    wanted: float
    at_most: bool
    measured: float | None
    reached: bool


def _judged(target: str, wanted: float, measured: float | None, *, at_most: bool) -> Target:
    reached = measured is not None and (measured <= wanted if at_most else measured >= wanted)
    return Target(target, wanted, at_most, measured, reached)


def targets(rows: Sequence[BenchRow], index: Index, trial: Trial, *, seed: int) -> list[Target]:
    """All targets of one run; measures changes on the index, which is another one afterwards."""
    own = [row for row in rows if row.visible == "own tenants"]
    ours = [row for row in own if row.system == "vindex"]
    search = _fastest(ours, PRECISION)
    one_s, two_s = (_batch_s(index, trial, threads) for threads in (1, 2))
    found = [
        _judged("search in a batch at recall 0.95, us", 18, search, at_most=True),
        _judged("search in a batch at recall 0.99, us", 30, _fastest(ours, FINE), at_most=True),
        _judged("search in a call each at recall 0.95, p99, us", 100, _p99_us(index, trial), at_most=True),
        *_ratios(own, search),
        _judged("memory beyond the vectors, MB", 45, ours[0].overhead_mb, at_most=True),
        _judged("build, s", 5, ours[0].build_s, at_most=True),
        _judged("two threads over one", 1.8, one_s / two_s, at_most=False),
    ]
    return found + _changes(index, trial, seed)


def _fastest(rows: Sequence[BenchRow], recall: float) -> float | None:
    return min((row.us_per_query for row in rows if row.recall >= recall), default=None)


def _ratios(own: Sequence[BenchRow], search: float | None) -> list[Target]:
    """How many times longer each peer takes for recall 0.95."""
    wanted = {"faiss flat per tenant": 3.0, "hnswlib per tenant": 2.0, "faiss IVF + bitmap": 14.0}
    ratios = []
    for system, times in wanted.items():
        theirs = _fastest([row for row in own if row.system == system], PRECISION)
        ratio = None if theirs is None or search is None else theirs / search
        ratios.append(_judged(f"{system} takes at recall 0.95, times", times, ratio, at_most=False))
    return ratios


def _batch_s(index: Index, trial: Trial, threads: int) -> float:
    work, taken = trial.work, []
    for _ in range(5):
        start = time.perf_counter()
        index.search(work.queries, work.tenants, trial.k, recall=PRECISION, threads=threads)
        taken.append(time.perf_counter() - start)
    return min(taken)


def _p99_us(index: Index, trial: Trial) -> float:
    taken = []
    for number in trial.groups["own tenants"]:
        start = time.perf_counter()
        index.search(trial.query(number), trial.tenant(number), trial.k, recall=PRECISION)
        taken.append(time.perf_counter() - start)
    return float(np.percentile(taken, 99)) * 1e6


def _changes(index: Index, trial: Trial, seed: int) -> list[Target]:
    """Bulk grants, revokes and deletions, and a stream of mixed changes, all durable."""
    generator = np.random.default_rng(seed)
    names = sorted(trial.rows)
    count = len(trial.work.vectors)
    pieces = [generator.permutation(count)[:BULK].tolist() for _ in range(10)]
    whose = [names[number] for number in generator.integers(0, len(names), len(pieces))]
    done = len(pieces) * min(BULK, count)
    grant_s = _timed(lambda: [index.grant(ids, name) for ids, name in zip(pieces, whose, strict=True)])
    revoke_s = _timed(lambda: [index.revoke(ids, name) for ids, name in zip(pieces, whose, strict=True)])
    lines = [
        {
            "op": "grant" if number % 2 else "revoke",
            "id": int(generator.integers(0, count)),
            "tenant": names[int(generator.integers(0, len(names)))],
        }
        for number in range(OPERATIONS)
    ]
    with TemporaryDirectory() as place:
        source = f"{place}/changes.jsonl"
        with open(source, "wb") as stream:
            stream.writelines(encode(line) for line in lines)
        apply_s = _timed(lambda: [None for _ in apply_changes(index, source)])
    delete_s = _timed(lambda: index.delete(pieces[0]))
    return [
        _judged("grant in bulk, us", 3, grant_s / done * 1e6, at_most=True),
        _judged("revoke in bulk, us", 3, revoke_s / done * 1e6, at_most=True),
        _judged("delete in bulk, us", 3, delete_s / len(pieces[0]) * 1e6, at_most=True),
        _judged("apply, durable in batches, changes/s", 50_000, OPERATIONS / apply_s, at_most=False),
    ]


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
