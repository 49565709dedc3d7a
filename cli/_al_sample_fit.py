"""`llmsys al-sample fit` and `predict`: labels in, a model and its figures out."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from llmsys.cli._al_sample_options import Basis, Intercept, Pool, Weights
from llmsys.cli._options import Json, OnError, Quiet, Seed
from llmsys.cli._render import note, report
from llmsys.cli._streams import records_out

__all__ = ["fit", "predict"]


def fit(
    pool: Pool,
    labels: Annotated[str, typer.Argument(metavar="LABELS", help="Lines of select with `y` added; - is stdin.")] = "-",
    *,
    loss: Annotated[str, typer.Option("--loss", help="squared, huber, lp:P (P from 1 to 4) or logistic.")] = "squared",
    ridge: Annotated[
        str, typer.Option("--ridge", help="Penalty on the squared coefficients, or auto: by leave-one-out error.")
    ] = "0",
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write the model as safetensors.")] = None,
    coef: Annotated[Path | None, typer.Option("--coef", metavar="FILE", help="Write the coefficients as .npy.")] = None,
    basis: Basis = "linear",
    intercept: Intercept = True,
    pool_weights: Weights = None,
    seed: Seed = 0,
    on_error: OnError = "fail",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fit the family to labelled points by their weights, and estimate how far the fit is from one with all labels.

    Example: llmsys al-sample fit pool.npy labels.jsonl --out probe.safetensors
    """
    from llmsys.al_sample import open_design, read_labels, run_fit, save_fit

    design = open_design(pool, basis, intercept=intercept, seed=seed, weights=pool_weights)
    found = read_labels(
        labels, design.pool, on_error=on_error, on_skip=lambda fault: note(f"skipped: {fault}")
    )  # fmt: skip
    fitted, summary = run_fit(design, found, loss=loss, ridge=ridge)
    for warning in summary.warnings:
        note(f"warning: {warning}")
    save_fit(fitted, out, coef)
    figures = asdict(summary)
    rows = [{"quantity": name, "value": value} for name, value in figures.items() if name != "warnings"]
    report(figures, rows, json=json)


def predict(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="What fit wrote.")],
    pool: Pool,
    *,
    on_error: OnError = "fail",
    quiet: Quiet = False,
) -> None:
    """Predict every point: {"index","y","se"}; se is the standard error against the fit from all labels.

    Example: llmsys al-sample predict probe.safetensors new.npy
    """
    from llmsys.al_sample import open_model
    from llmsys.al_sample import predict as predictions
    from llmsys.al_sample.pools import open_pool

    opened = open_model(model)
    points = open_pool(pool, on_error=on_error, on_skip=lambda fault: note(f"skipped: {fault}"))
    with records_out() as out:
        for one in predictions(opened, points):
            out.write(one)
