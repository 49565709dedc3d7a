"""`llmsys al-sample run`: a pool and a labeller in, a fit out."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from llmsys.cli._al_sample_options import Basis, Intercept, Pool
from llmsys.cli._options import Json, Quiet, Seed
from llmsys.cli._render import note, report

__all__ = ["run"]


def run(
    pool: Pool,
    *,
    oracle: Annotated[
        str, typer.Option("--oracle", metavar="CMD", help="Shell command: request lines in, {index, y} lines out.")
    ],
    state: Annotated[
        Path, typer.Option("--state", metavar="DIR", help="Journal of answers; the same command goes on from it.")
    ],
    k: Annotated[int | None, typer.Option("-k", "--labels", min=1, help="Labels to ask for.")] = None,
    until: Annotated[
        str | None, typer.Option("--until", help="excess:X: stop once the excess is at most X with 95 % confidence.")
    ] = None,
    max_labels: Annotated[int, typer.Option("--max-labels", min=1, help="Most labels that --until may take.")] = 2000,
    batch: Annotated[
        int, typer.Option("--batch", min=0, help="Draws per round; 0: 4 per dimension, or with -k all at once.")
    ] = 0,
    timeout: Annotated[
        float, typer.Option("--timeout", min=0.1, help="Seconds that the labeller may be silent.")
    ] = 600.0,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write the model as safetensors.")] = None,
    coef: Annotated[Path | None, typer.Option("--coef", metavar="FILE", help="Write the coefficients as .npy.")] = None,
    basis: Basis = "linear",
    intercept: Intercept = True,
    seed: Seed = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Choose points, ask a labeller on a pipe, fit, and go on until the labels are enough; exit 1 if they never are.

    Example: llmsys al-sample run pool.npy --oracle ./simulate --until excess:0.1 --state run --out fit.safetensors
    """
    from llmsys.al_sample import open_design, run_loop, save_fit

    design = open_design(pool, basis, intercept=intercept, seed=seed)
    fitted, progress = run_loop(
        design, oracle, state, k=k, until=until, max_labels=max_labels, batch=batch, seed=seed, timeout_s=timeout,
        basis=basis, on_round=lambda one: note(
            f"round {one.rounds}: {one.labels} labels, excess {one.excess:.3g} (below {one.excess_high:.3g})"
        ),
    )  # fmt: skip
    save_fit(fitted, out, coef)
    summary = asdict(progress)
    report(summary, [{"quantity": name, "value": value} for name, value in summary.items()], json=json)
    if progress.reached is False:
        raise typer.Exit(1)
