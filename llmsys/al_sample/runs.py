"""What `select` and `fit` do as a whole: a design and plain options in, a result and its summary out.

Knows no stream and no terminal.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llmsys.al_sample.certificate import sampled_eigenvalues
from llmsys.al_sample.design import Design
from llmsys.al_sample.frames import frame_of, score_points
from llmsys.al_sample.journal import Journal, RunKey
from llmsys.al_sample.loop import ActiveLoop, Goal, Progress, parse_until
from llmsys.al_sample.model import Fit, fit_labels, write_model
from llmsys.al_sample.oracle import Answer, Oracle
from llmsys.al_sample.records import Labels
from llmsys.al_sample.selection import Selection, select
from llmsys.al_sample.session import LEVERAGE_ENOUGH, budget_of_eps, choose_frame, column_names
from llmsys.artifacts import write_npy
from llmsys.errors import UsageFault

__all__ = ["FitSummary", "SelectionSummary", "run_fit", "run_loop", "run_selection", "save_fit"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SelectionSummary:
    """What `select` reports beside its lines; `lambda_min` and `lambda_max` are those of `check`."""

    k: int
    method: str
    mode: str
    rank: int
    n: int
    sum_weights: float
    uneven: float
    lambda_min: float
    lambda_max: float
    advice: str
    warnings: tuple[str, ...]

    def row(self) -> dict[str, str | int | float]:
        """The figures, without the sentences."""
        names = ("k", "method", "mode", "rank", "n", "sum_weights", "uneven", "lambda_min", "lambda_max")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, slots=True)
class FitSummary:
    """What `fit` prints; the excess figures are null for losses other than squares."""

    labels: int
    refused: int
    loss: str
    rank: int
    ridge: float
    condition: float
    excess: float | None
    excess_low: float | None
    excess_high: float | None
    opt: float | None
    loo_r2: float | None
    warnings: tuple[str, ...]


def run_selection(
    design: Design,
    k: int | None,
    method: str,
    *,
    eps: float | None = None,
    mode: str = "auto",
    eta: float | None = None,
    seed: int = 0,
    exclude: NDArray[np.int64] | None = None,
    price: Floats | None = None,
) -> tuple[Selection, SelectionSummary]:
    """Choose points and say what was chosen. Raises UsageFault unless exactly one of k and eps is given."""
    if (k is None) == (eps is None):
        raise UsageFault("-k and --eps: expected exactly one of them")
    frame, used = choose_frame(design, mode, eta=eta)
    wanted = k if k is not None else budget_of_eps(frame.rank, eps or 1.0)
    chosen = select(design, wanted, method, seed=seed, exclude=exclude, frame=frame, price=price)
    tau = score_points(design, frame).leverage.max() * len(design)
    uneven = float(tau) / frame.rank
    eigenvalues = sampled_eigenvalues(frame, design.at(chosen.index), chosen.weight, len(design))
    warnings = list(chosen.notes)
    if frame.dropped.size:
        warnings.append(f"dropped, as others span them: {column_names(design, tuple(frame.dropped.tolist()))}")
    if wanted >= len(design):
        warnings.append(f"{wanted} labels for {len(design)} points: all of them that can be chosen are")
    summary = SelectionSummary(
        len(chosen), method, used, frame.rank, len(design), float(chosen.weight.sum()), uneven,
        float(eigenvalues[0]), float(eigenvalues[-1]), _advice(uneven), tuple(warnings),
    )  # fmt: skip
    return chosen, summary


def _advice(uneven: float) -> str:
    """What leverage buys on this pool, in a sentence."""
    if uneven < LEVERAGE_ENOUGH:
        return f"the largest leverage is {uneven:.3g} times the mean: uniform sampling would do nearly as well here"
    return f"the largest leverage is {uneven:.3g} times the mean: uniform sampling may miss what such points decide"


def run_fit(design: Design, labels: Labels, *, loss: str = "squared", ridge: str = "0") -> tuple[Fit, FitSummary]:
    """Fit and say how well. `ridge` is a number of at least 0, or auto (squared loss); another raises UsageFault."""
    frame = frame_of(design)
    found = fit_labels(design, frame, labels, loss=loss, ridge=_ridge(ridge, loss))
    excess = found.excess
    warnings = []
    if frame.dropped.size:
        names = column_names(design, tuple(frame.dropped.tolist()))
        warnings.append(f"coefficient 0, as others span them: {names}")
    if labels.refused:
        warnings.append(f"{labels.refused} lines have no label")
    summary = FitSummary(
        labels=len(labels),
        refused=labels.refused,
        loss=loss,
        rank=frame.rank,
        ridge=found.ridge,
        condition=found.condition,
        excess=None if excess is None else excess.excess,
        excess_low=None if excess is None else excess.low,
        excess_high=None if excess is None else excess.high,
        opt=None if excess is None else excess.opt,
        loo_r2=None if excess is None else excess.loo_r2,
        warnings=tuple(warnings),
    )
    return found, summary


def _ridge(text: str, loss: str) -> float | None:
    if text == "auto" and loss == "squared":
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < np.inf:
        raise UsageFault(f"--ridge {text!r} with --loss {loss}; expected a number of at least 0, or auto for squares")
    return value


def save_fit(found: Fit, model: Path | None, coefficients: Path | None) -> None:
    """Write the model as safetensors and the coefficients [d] or [d, o] as `.npy`, each where a path is given."""
    if model is not None:
        write_model(model, found.model)
    if coefficients is not None:
        values = found.model.coefficients
        write_npy(coefficients, values[:, 0] if values.shape[1] == 1 else values)


def run_loop(
    design: Design,
    command: str,
    state: Path,
    *,
    basis: str,
    k: int | None = None,
    until: str | None = None,
    max_labels: int = 2000,
    batch: int = 0,
    seed: int = 0,
    timeout_s: float = 600.0,
    on_round: Callable[[Progress], None] | None = None,
) -> tuple[Fit, Progress]:
    """Label by `command` until `k` labels, or until the excess; answers are kept in `state` as they come.

    Raises UsageFault unless exactly one of k and until is given, OracleDied, and BadInput for another run's journal.
    """
    if (k is None) == (until is None):
        raise UsageFault("-k and --until: expected exactly one of them")
    goal = Goal(max_labels if k is None else k, None if until is None else parse_until(until))
    loop = ActiveLoop(design, goal, batch, seed)
    intercept = bool(getattr(design.basis, "intercept", False))
    journal = Journal(state, RunKey(design.pool.checksum(), basis, intercept, seed, batch))
    try:
        with Oracle(command, design.pool, timeout_s=timeout_s) as oracle:

            def ask(rows: Sequence[int]) -> Iterator[Answer]:
                for answer in oracle.ask(rows):
                    journal.record(answer)
                    yield answer

            return loop.run(ask, dict(journal.answers), on_round)
    finally:
        journal.close()
