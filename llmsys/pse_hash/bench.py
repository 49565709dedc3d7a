"""Our estimators beside what people use: seconds per query, kernel evaluations, errors against the exact sum, one run.

Peers: scikit-learn's KernelDensity on a ball tree (rtol 0.1), torch in tiles of 256 x 1024. What is not installed is
named. The limit of `exact` is what this machine's float32 matmul and exponentials alone would take. Knows no table.
"""

import importlib.util
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from llmsys.gpu import require
from llmsys.pse_hash.arrays import F64, Numbers
from llmsys.pse_hash.bandwidth import bandwidth_of
from llmsys.pse_hash.settings import Settings
from llmsys.pse_hash.sketch import PairwiseSum

__all__ = ["BenchRow", "PseBench", "run_bench"]

REPEATS = 3
TREE_QUERIES = 32
JITTER = 0.05
ABSENT = {"pykeops": "KeOps", "deann": "DEANN"}


@dataclass(frozen=True, slots=True)
class BenchRow:
    """One method at one size and batch: ms per query, kernel evaluations, relative errors, and what it is over `exact`.

    over_exact: its time over ours of `exact` in the same run. limit_share: of the machine's own limit, for `exact`.
    """

    method: str
    points: int
    batch: int
    ms_query: float
    evals: float
    mean_error: float
    p90_error: float
    over_exact: float
    limit_share: float | None = None


@dataclass(slots=True)
class PseBench:
    """The rows, the bandwidth, updates per second of `strat` and `hbe`, seconds of builds, and what was skipped."""

    bandwidth: float
    rows: list[BenchRow] = field(default_factory=list)
    updates_s: dict[str, float] = field(default_factory=dict)
    build_s: dict[str, float] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)


def run_bench(
    values: Numbers,
    queries: Numbers,
    *,
    sizes: tuple[int, ...],
    batches: tuple[int, ...],
    bandwidth: str,
    on_row: Callable[[int], None] = lambda n: None,
) -> PseBench:
    """Measure every method at every size and batch, on one thread; noisy copies make larger sets than `values`."""
    scale = bandwidth_of(bandwidth, values, "gaussian")
    bench = PseBench(scale)
    bench.skipped = [f"{name}: not installed" for module, name in ABSENT.items() if not _has(module)]
    if not _has("sklearn"):
        bench.skipped.append("scikit-learn: not installed")
    for size in sizes:
        points = _grown(values, size)
        sketch = _sketch(points, scale, "strat", bench)
        for batch in batches:
            asked = np.asarray(queries[np.arange(batch) % len(queries)], np.float64)
            for row in _rows(points, asked, scale, sketch):
                bench.rows.append(row)
                on_row(1)
    _measure_updates(_grown(values, sizes[0]), scale, bench)
    return bench


def _rows(points: Numbers, asked: F64, scale: float, sketch: PairwiseSum) -> Iterator[BenchRow]:
    exact_s, truth, limit_s = _exact(sketch, asked), _log_values(sketch, asked, "exact"), _limit_s(points, asked)
    size, batch = len(points), len(asked)

    def row(method: str, seconds: float, logs: F64, evals: float, share: float | None = None) -> BenchRow:
        error = np.abs(np.expm1(logs - truth[: len(logs)]))
        mean, high = float(error.mean()), float(np.quantile(error, 0.9))
        return BenchRow(method, size, batch, 1e3 * seconds / batch, evals, mean, high, seconds / exact_s, share)

    yield row("exact", exact_s, truth, size, limit_s / exact_s)
    yield row("torch tiled", *_torch_tiled(points, asked, scale), size)
    for method, ci in (("strat", "clt"), ("rs", "clt"), ("auto", "rigorous")):
        seconds = _least_s(lambda m=method, c=ci: sketch.query(asked, method=m, ci=c))  # type: ignore[misc]
        found = sketch.query(asked, method=method, ci=ci)
        yield row(f"{method} ({ci})", seconds, found.log_value, float(found.evals.mean()))
    if _has("sklearn"):
        few = asked[:TREE_QUERIES]
        seconds, logs = _ball_tree(points, few, scale)
        yield row("sklearn ball tree", seconds * batch / len(few), logs, size)


def _sketch(points: Numbers, scale: float, method: str, bench: PseBench) -> PairwiseSum:
    start = time.perf_counter()
    made = PairwiseSum.build(points, Settings("gaussian", scale, method="auto"), measure=True)
    made.source(method)
    bench.build_s[f"{method} {len(points)}"] = time.perf_counter() - start
    return made


def _exact(sketch: PairwiseSum, asked: F64) -> float:
    return _least_s(lambda: sketch.query(asked, method="exact"))


def _log_values(sketch: PairwiseSum, asked: F64, method: str) -> F64:
    return sketch.query(asked, method=method).log_value


def _limit_s(points: Numbers, asked: F64) -> float:
    """Seconds of the matmul or of the exponentials alone, whichever is longer, in tiles that stay in cache."""
    x, y = np.asarray(points[:1024], np.float32), np.asarray(asked[:128], np.float32)
    tile = np.empty((len(y), len(x)), np.float32)
    pairs = len(points) * len(asked) / (len(x) * len(y))
    matmul_s = _least_s(lambda: np.matmul(y, x.T, out=tile))
    exp_s = _least_s(lambda: np.exp2(tile, out=tile))
    return max(matmul_s, exp_s) * pairs


def _torch_tiled(points: Numbers, asked: F64, scale: float) -> tuple[float, F64]:
    """Forty lines that anybody would write: tiles of 256 queries and 1024 points, float32, log-sum-exp over tiles."""
    import torch

    x = torch.from_numpy(np.asarray(points, np.float32))
    y = torch.from_numpy(np.asarray(asked, np.float32))
    x_size, factor = x.square().sum(1), 0.5 / scale**2

    def work() -> Any:  # noqa: ANN401 (a tensor)
        found = []
        for part in torch.split(y, 256):
            total = torch.zeros(len(part))
            y_size = part.square().sum(1)
            for start in range(0, len(x), 1024):
                near = x[start : start + 1024]
                squared = torch.addmm(x_size[start : start + 1024] + y_size[:, None], part, near.T, alpha=-2)
                total += torch.exp(-factor * squared.clamp_(min=0)).sum(1)
            found.append(total)
        return torch.cat(found)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _least_s(work), np.log(work().double().numpy() / len(x))
    finally:
        torch.set_num_threads(threads)


def _ball_tree(points: Numbers, asked: F64, scale: float) -> tuple[float, F64]:
    kind = require("sklearn.neighbors").KernelDensity
    tree = kind(bandwidth=scale, algorithm="ball_tree", rtol=0.1).fit(np.asarray(points, np.float64))
    start = time.perf_counter()
    logs = tree.score_samples(asked)
    seconds = time.perf_counter() - start
    return seconds, logs + 0.5 * points.shape[1] * np.log(2 * np.pi * scale**2)


def _measure_updates(points: Numbers, scale: float, bench: PseBench) -> None:
    """Inserts and deletes per second, one structure kept up to date at a time, in blocks of 256."""
    rng = np.random.default_rng(0)
    more = np.asarray(points[rng.integers(len(points), size=2048)], np.float64) + JITTER
    for method, robust in (("strat", "fresh"), ("hbe", "none")):
        made = PairwiseSum.build(points, Settings("gaussian", scale, method=method, robust=robust))
        source = made.source(method)
        source.at(np.zeros(points.shape[1]), 0)
        start = time.perf_counter()
        for first in range(0, len(more), 256):
            names = [f"new{row}" for row in range(first, first + 256)]
            made.insert(names, more[first : first + 256])
            made.delete(names)
        bench.updates_s[method] = 2 * len(more) / (time.perf_counter() - start)


def _grown(values: Numbers, size: int) -> Numbers:
    """The first `size` vectors, or copies of all with a little noise until there are as many."""
    if size <= len(values):
        return np.asarray(values[:size], np.float32)
    rng = np.random.default_rng(1)
    rows = rng.integers(len(values), size=size)
    noise = rng.standard_normal((size, values.shape[1]), dtype=np.float32) * JITTER
    return np.asarray(values, np.float32)[rows] + noise


def _least_s(work: Callable[[], object]) -> float:
    """Seconds of the fastest of a few runs after one that warms up."""
    work()
    found = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return min(found)


def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
