"""A fitted function on disk: coefficients in basis order, the basis itself, and what its errors rest on.

`fit_labels` makes one from a design and labels; predictions need neither. Knows no selection rule.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from llmsys.al_sample.bases import BasisSpec
from llmsys.al_sample.design import Design
from llmsys.al_sample.excess import Excess, estimate_excess, left_out_changes
from llmsys.al_sample.frames import Frame
from llmsys.al_sample.pools import Pool
from llmsys.al_sample.records import Labels
from llmsys.al_sample.solving import parse_loss, solve
from llmsys.artifacts import open_tensors, write_tensors
from llmsys.errors import BadInput

__all__ = ["Fit", "Model", "Prediction", "fit_labels", "open_model", "predict", "write_model"]

PREDICT_ROWS = 2**14
FORMAT = 1

Floats = NDArray[np.float64]


class _Document(msgspec.Struct, frozen=True):
    format: int
    basis: BasisSpec
    loss: str
    dropped: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """y = basis(x)·coefficients [d, o] (for logistic: its log odds); `spread` [o, d, d] is the coefficients' covariance
    around those of the fit from all labels, None where that is not known. `dropped` columns have coefficient 0."""

    basis: BasisSpec
    loss: str
    coefficients: Floats
    dropped: tuple[int, ...] = ()
    spread: Floats | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """A model and how it was found: labels used, condition of √w·u, ridge, and the excess (squared loss only)."""

    model: Model
    labels: int
    condition: float
    ridge: float
    excess: Excess | None


@dataclass(frozen=True, slots=True)
class Prediction:
    """A point's prediction: one number, or a list for several outputs; `se` against the fit from all labels."""

    index: int
    y: float | list[float]
    se: float | list[float] | None


def fit_labels(
    design: Design, frame: Frame, labels: Labels, *, loss: str = "squared", ridge: float | None = 0.0
) -> Fit:
    """Fit the labels by their weights; a ridge of None is chosen by leave-one-out.

    Raises RankDeficient where they do not determine the fit, BadInput for labels that the loss does not take.
    """
    chosen = parse_loss(loss)
    u = frame.orthonormal(design.at(labels.index))
    penalty = frame.transform[frame.kept > 0] if design_has_intercept(design) else frame.transform
    found = solve(u, labels.y, labels.weight, chosen, ridge=ridge, penalty=penalty)
    coefficients = np.zeros((design.dim, labels.y.shape[1]))
    coefficients[frame.kept] = frame.transform @ found.coefficients
    excess, spread = None, None
    if chosen.name == "squared":
        excess = estimate_excess(u, labels.y, labels.weight, labels.p, found)
        changes = left_out_changes(u, found) * np.sqrt(1 - np.minimum(labels.p, 1.0))[:, None, None]
        raw = np.zeros((len(labels), design.dim, labels.y.shape[1]))
        raw[:, frame.kept] = np.einsum("rs,kso->kro", frame.transform, changes)
        spread = np.einsum("kdo,keo->ode", raw, raw)
    singular = np.linalg.svd(u * np.sqrt(labels.weight)[:, None], compute_uv=False)
    condition = float(singular[0] / singular[-1]) if len(u) >= frame.rank and singular[-1] > 0 else float("inf")
    model = Model(_spec_of(design), loss, coefficients, tuple(frame.dropped.tolist()), spread)
    return Fit(model, len(labels), condition, found.ridge, excess)


def design_has_intercept(design: Design) -> bool:
    """Whether the first column is the added constant, which a ridge leaves alone."""
    return isinstance(design.basis, BasisSpec) and design.basis.intercept


def _spec_of(design: Design) -> BasisSpec:
    if not isinstance(design.basis, BasisSpec):
        raise ValueError(f"a basis of type {type(design.basis).__name__}; expected one of resolve_basis")
    return design.basis


def write_model(path: Path, model: Model) -> None:
    """Write safetensors by rename; the same model gives the same bytes."""
    tensors = {"coefficients": model.coefficients}
    if model.spread is not None:
        tensors["spread"] = model.spread
    write_tensors(path, tensors, document=_Document(FORMAT, model.basis, model.loss, model.dropped))


def open_model(path: Path) -> Model:
    """Read what `write_model` wrote. Raises BadInput for anything else."""
    opened = open_tensors(path)
    document = opened.document(_Document)
    if document.format != FORMAT:
        raise BadInput(str(path), f"format {document.format}", f"format {FORMAT}")
    coefficients = np.array(opened.array("coefficients"), np.float64)
    spread = np.array(opened.array("spread"), np.float64) if "spread" in opened.tensors else None
    if coefficients.ndim != 2 or coefficients.shape[0] != document.basis.dim:
        raise BadInput(str(path), f"coefficients of shape {coefficients.shape}", f"[{document.basis.dim}, outputs]")
    return Model(document.basis, document.loss, coefficients, document.dropped, spread)


def predict(model: Model, pool: Pool) -> Iterator[Prediction]:
    """Yield the prediction of every point in order; probabilities for logistic.

    Raises BadInput for points of another dimension and for NaN.
    """
    if pool.inputs != model.basis.inputs:
        raise BadInput(pool.name, f"points of {pool.inputs} numbers", f"{model.basis.inputs}, as the model has")
    design = Design(pool, model.basis, None, PREDICT_ROWS)
    for start, values in design.blocks():
        y = values @ model.coefficients
        if model.loss == "logistic":
            y = 1 / (1 + np.exp(-y))
        se = None if model.spread is None else np.sqrt(np.einsum("nd,ode,ne->no", values, model.spread, values))
        for row in range(len(values)):
            yield Prediction(start + row, _plain(y[row]), None if se is None else _plain(se[row]))


def _plain(numbers: Floats) -> float | list[float]:
    """One number bare, several as a list."""
    found: list[float] = numbers.tolist()
    return found[0] if len(found) == 1 else found
