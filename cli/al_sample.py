"""`llmsys al-sample`: options in, `llmsys.al_sample` called, records out."""

from dataclasses import asdict
from typing import Annotated

import typer

from llmsys.cli import _al_sample_bench, _al_sample_fit, _al_sample_run, _al_sample_select
from llmsys.cli._al_sample_options import Basis, Intercept, Pool, Weights
from llmsys.cli._options import Json, Quiet, Seed
from llmsys.cli._render import note, report

__all__ = ["app"]

app = typer.Typer(
    help="Which points to label, with which weights, and the fit.", rich_markup_mode=None, no_args_is_help=True
)

app.command()(_al_sample_select.select)


@app.command()
def check(
    pool: Pool,
    selection: Annotated[str, typer.Argument(metavar="SELECTION", help="What select wrote; - is stdin.")],
    *,
    basis: Basis = "linear",
    intercept: Intercept = True,
    pool_weights: Weights = None,
    require: Annotated[
        float | None, typer.Option("--require", min=0.0, help="Exit 1 if eps_spectral is above this.")
    ] = None,
    seed: Seed = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Certify a sample: eigenvalues of its weighted Gram matrix against the pool's, coefficients, rho and eta.

    Example: llmsys al-sample check pool.npy todo.jsonl --require 0.5
    """
    from llmsys.al_sample import certify_lines, frame_of, open_design, read_selection

    design = open_design(pool, basis, intercept=intercept, seed=seed, weights=pool_weights)
    found = certify_lines(design, frame_of(design), read_selection(selection, design.pool))
    summary = asdict(found)
    report(summary, [{"quantity": name, "value": value} for name, value in summary.items()], json=json)
    if require is not None and found.eps_spectral > require:
        note(f"eps_spectral {found.eps_spectral:.4g} is above {require:g}")
        raise typer.Exit(1)


@app.command("basis")
def show_basis(
    pool: Pool,
    *,
    basis: Basis = "linear",
    intercept: Intercept = True,
    pool_weights: Weights = None,
    seed: Seed = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure a basis on a pool: rank, rho, eta, ||G - I||, K = max leverage, and the points of largest leverage.

    Example: llmsys al-sample basis pool.npy --basis legendre:5
    """
    from llmsys.al_sample import open_design, report_basis

    summary = asdict(report_basis(open_design(pool, basis, intercept=intercept, seed=seed, weights=pool_weights)))
    rows = [{"quantity": name, "value": value} for name, value in summary.items() if not isinstance(value, tuple)]
    report(summary, rows, json=json)


app.command()(_al_sample_fit.fit)
app.command()(_al_sample_fit.predict)
app.command()(_al_sample_run.run)
app.command()(_al_sample_bench.bench)
