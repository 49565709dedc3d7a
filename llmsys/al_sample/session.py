"""A design as the options of a verb describe it, and the frame that its samples are drawn in.

Knows no stream: paths and words in, a `Design` and a `Frame` out.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llmsys.al_sample.bases import resolve_basis
from llmsys.al_sample.design import Design, design_of
from llmsys.al_sample.frames import Frame, frame_of, near_frame, score_points
from llmsys.al_sample.nearness import Nearness, measure_nearness
from llmsys.al_sample.pools import open_pool, read_column
from llmsys.errors import BadInput, UsageFault

__all__ = [
    "LEVERAGE_ENOUGH",
    "BasisReport",
    "budget_of_eps",
    "choose_frame",
    "column_names",
    "open_design",
    "report_basis",
]

MODES = ("auto", "leverage", "near")
LEVERAGE_ENOUGH = 5.0
LARGEST = 10


@dataclass(frozen=True, slots=True)
class BasisReport:
    """What `basis` prints. `condition_number` is K = max τ; `uneven` = K/rank is how far uniform sampling falls behind;
    `largest` are the points of largest leverage, (row, leverage)."""

    n: int
    columns: int
    rank: int
    dropped: tuple[int, ...]
    rho: float
    eta: float
    gram_distance: float
    nearly_orthogonal: bool
    condition_number: float
    uneven: float
    largest: tuple[tuple[int, float], ...]


def open_design(
    source: str,
    basis: str = "linear",
    *,
    intercept: bool = True,
    seed: int = 0,
    ids: Path | None = None,
    weights: Path | None = None,
    block_rows: int = 0,
    on_error: str = "fail",
    on_skip: Callable[[BadInput], None] | None = None,
) -> Design:
    """Open a pool, resolve the basis on it, read the pool's weights. Raises what those three raise."""
    pool = open_pool(source, ids=ids, on_error=on_error, on_skip=on_skip)
    resolved = resolve_basis(basis, pool, intercept=intercept, seed=seed)
    column = None if weights is None else read_column(weights, len(pool))
    return design_of(pool, resolved, column, block_rows=block_rows)


def choose_frame(design: Design, mode: str = "auto", *, eta: float | None = None) -> tuple[Frame, str]:
    """The frame to sample in, and which one it is: `near` (columns only scaled) or `leverage`.

    `auto` takes `near` where min(η, ‖G − I‖) ≤ 1/10; `eta` is believed in place of measuring. Raises UsageFault for
    `near` on a basis with a bound of 1 or more, where nothing is promised.
    """
    if mode not in MODES:
        raise UsageFault(f"--basis-mode {mode!r}; expected {', '.join(MODES)}")
    if mode == "leverage":
        return frame_of(design), "leverage"
    near = _believed(design, eta) if eta is not None else measure_nearness(design)
    if mode == "near" and not near.bound < 1:
        raise UsageFault(f"--basis-mode near: eta is {near.bound:.3g}; expected below 1, or use --basis-mode leverage")
    if mode == "near" or (near.nearly_orthogonal and (near.scale > 0).all()):
        return near_frame(near.scale), "near"
    return frame_of(design), "leverage"


def _believed(design: Design, eta: float) -> Nearness:
    """Column lengths from one pass; ρ and ‖G − I‖ as η bounds them."""
    total = np.zeros(design.dim)
    for _, block in design.weighted_blocks():
        total += np.square(block).sum(axis=0)
    return Nearness(eta / max(design.dim - 1, 1), eta, eta, np.sqrt(total / len(design)))


def budget_of_eps(rank: int, eps: float) -> int:
    """Labels for excess error of order ε: ⌈3·rank/ε⌉, the draws of a BSS run with C0 = √2.

    >>> budget_of_eps(20, 0.5)
    120
    """
    return math.ceil(3 * rank / eps)


def column_names(design: Design, columns: tuple[int, ...]) -> str:
    """Columns of the basis for a person: `intercept`, or their number without it."""
    first = int(getattr(design.basis, "intercept", False))
    return ", ".join("intercept" if c < first else f"column {c - first}" for c in columns)


def report_basis(design: Design) -> BasisReport:
    """Measure a basis on the whole pool, in three passes."""
    near = measure_nearness(design)
    frame = frame_of(design)
    leverage = score_points(design, frame).leverage
    density = design.density(np.arange(len(design)))
    tau = np.divide(leverage * len(design), density, out=np.zeros(len(design)), where=density > 0)
    order = np.argsort(-leverage, kind="stable")[:LARGEST]
    return BasisReport(
        n=len(design),
        columns=design.dim,
        rank=frame.rank,
        dropped=tuple(frame.dropped.tolist()),
        rho=near.rho,
        eta=near.eta,
        gram_distance=near.gram_distance,
        nearly_orthogonal=near.nearly_orthogonal,
        condition_number=float(tau.max()),
        uneven=float(tau.max()) / frame.rank,
        largest=tuple((int(row), float(leverage[row])) for row in order),
    )
