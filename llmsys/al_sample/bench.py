"""How many labels a method needs: true excess over the fit from all labels, many seeds, methods side by side.

Needs the target of every point, so it measures methods, not a labelling job. Runs the methods of `select`
alone, no package of others. Knows no stream.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llmsys.al_sample.design import Design
from llmsys.al_sample.errors import RankDeficient
from llmsys.al_sample.frames import frame_of
from llmsys.al_sample.pools import read_column
from llmsys.al_sample.selection import select
from llmsys.al_sample.solving import solve_squares
from llmsys.errors import BadInput

__all__ = ["BenchResult", "BenchRow", "LabelsToTarget", "compare_methods", "labels_to_target", "run_bench"]

DEFAULT_METHODS = ("uniform", "leverage", "pivotal", "bss")
DEFAULT_RANKS = (2, 4, 8, 16)

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class BenchRow:
    """Excess of one method at k labels over the seeds: mean with the half width of its 95 % interval, median, p90.

    `failed` counts samples that did not determine the fit; their excess counts as infinite.
    """

    method: str
    k: int
    mean: float
    half_width: float
    median: float
    p90: float
    failed: int


@dataclass(frozen=True, slots=True)
class LabelsToTarget:
    """The smallest measured k whose median excess, and whose p90, is at most `target`; None where none is."""

    method: str
    target: float
    median_k: int | None
    p90_k: int | None


@dataclass(frozen=True, slots=True)
class BenchResult:
    """Both tables of `bench`, and what they were measured on."""

    n: int
    rank: int
    seeds: int
    excess: tuple[BenchRow, ...]
    labels: tuple[LabelsToTarget, ...]


def run_bench(
    design: Design,
    targets: Path,
    methods: Sequence[str] | None,
    budgets: Sequence[int] | None,
    *,
    seeds: int = 30,
    target: float = 0.5,
    on_done: Callable[[int], None] | None = None,
) -> BenchResult:
    """Compare methods (default: uniform, leverage, pivotal, bss) at budgets (default: 2, 4, 8, 16 ranks)."""
    rank = frame_of(design).rank
    known = read_column(targets, len(design), signed=True)
    sizes = budgets or [times * rank for times in DEFAULT_RANKS if times * rank <= len(design)]
    rows = compare_methods(design, known, methods or DEFAULT_METHODS, sizes, seeds=seeds, on_done=on_done)
    return BenchResult(len(design), rank, seeds, tuple(rows), tuple(labels_to_target(rows, target)))


def compare_methods(
    design: Design,
    targets: Floats,
    methods: Sequence[str],
    budgets: Sequence[int],
    *,
    seeds: int = 30,
    on_done: Callable[[int], None] | None = None,
) -> list[BenchRow]:
    """Excess ‖Af̂ − y‖²/OPT − 1 of every method and budget over seeds 0, 1, …; `targets` [n]. Raises BadInput
    for targets that the family fits exactly: there is no error to compare with.
    """
    frame = frame_of(design)
    u = frame.orthonormal(np.vstack([block for _, block in design.blocks()]))
    best = (u * design.density(np.arange(len(u)))[:, None]).T @ targets / len(u)
    opt = float(np.average(np.square(targets - u @ best), weights=design.density(np.arange(len(u)))))
    if opt <= 1e-20 * float(np.square(targets).mean()) or opt == 0:
        raise BadInput("targets", "targets that the family fits exactly", "an error to compare with")
    rows = []
    for method in methods:
        for k in budgets:
            excess = np.empty(seeds)
            for seed in range(seeds):
                chosen = select(design, k, method, seed=seed, frame=frame)
                try:
                    found = solve_squares(u[chosen.index], targets[chosen.index, None], chosen.weight)
                    excess[seed] = np.square(found.coefficients[:, 0] - best).sum() / opt
                except RankDeficient:
                    excess[seed] = np.inf
                if on_done is not None:
                    on_done(1)
            rows.append(_summarised(method, k, excess))
    return rows


def _summarised(method: str, k: int, excess: Floats) -> BenchRow:
    finite = np.isfinite(excess)
    whole = bool(finite.all())
    mean = float(excess.mean())
    half = 1.96 * float(excess.std(ddof=1)) / np.sqrt(len(excess)) if whole and len(excess) > 1 else float("inf")
    median, p90 = (float(np.quantile(excess, q, method="higher")) for q in (0.5, 0.9))
    return BenchRow(method, k, mean, float(half), median, p90, int((~finite).sum()))


def labels_to_target(rows: Sequence[BenchRow], target: float) -> list[LabelsToTarget]:
    """The labels that each method took, in the order of the rows."""
    found = []
    for method in dict.fromkeys(row.method for row in rows):
        own = [row for row in rows if row.method == method]
        median = min((row.k for row in own if row.median <= target), default=None)
        p90 = min((row.k for row in own if row.p90 <= target), default=None)
        found.append(LabelsToTarget(method, target, median, p90))
    return found
