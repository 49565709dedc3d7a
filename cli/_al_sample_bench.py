"""`llmsys al-sample bench`: a pool with all its targets in, methods side by side out."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from llmsys.cli._al_sample_options import Basis, Intercept, Pool
from llmsys.cli._options import Json, Quiet
from llmsys.cli._render import progress, report, table

__all__ = ["bench"]


def bench(
    pool: Pool,
    targets: Annotated[Path, typer.Argument(metavar="TARGETS", help="The label of every point: .npy or text.")],
    *,
    method: Annotated[list[str] | None, typer.Option("--method", help="A method of select; may repeat.")] = None,
    k: Annotated[
        list[int] | None, typer.Option("-k", "--labels", min=1, help="A budget; may repeat; default 2, 4, 8, 16 ranks.")
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=2, help="Samples per method and budget.")] = 30,
    target: Annotated[float, typer.Option("--target", min=0.0, help="Excess to reach in the second table.")] = 0.5,
    basis: Basis = "linear",
    intercept: Intercept = True,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure the true excess of methods at several budgets, and the labels each needs to reach a target excess.

    Example: llmsys al-sample bench pool.npy targets.npy -k 50 -k 100 --method uniform --method pivotal
    """
    from llmsys.al_sample import open_design, run_bench

    design = open_design(pool, basis, intercept=intercept)
    with progress("samples") as advance:
        found = run_bench(design, targets, method, k, seeds=seeds, target=target, on_done=advance)
    if not json:
        table([asdict(row) for row in found.excess], title="excess over the fit from all labels", stderr=True)
    report(asdict(found), [asdict(row) for row in found.labels], title="labels to the target", json=json)
