"""`llmsys al-sample select`: a pool in, the points to label out."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmsys.cli._al_sample_options import Basis, Intercept, Pool, Weights
from llmsys.cli._options import OnError, Quiet, Seed
from llmsys.cli._render import note, table
from llmsys.cli._streams import records_out

if TYPE_CHECKING:
    from llmsys.al_sample import SelectionSummary

__all__ = ["select"]


def select(
    pool: Pool,
    *,
    k: Annotated[int | None, typer.Option("-k", "--labels", min=1, help="Points to choose.")] = None,
    eps: Annotated[
        float | None, typer.Option("--eps", min=1e-6, help="In place of -k: relative excess error; k = 3 rank/eps.")
    ] = None,
    method: Annotated[
        str, typer.Option("--method", help="pivotal, leverage, bss, lewis:P, ridge:LAMBDA or uniform.")
    ] = "pivotal",
    basis: Basis = "linear",
    intercept: Intercept = True,
    basis_mode: Annotated[
        str, typer.Option("--basis-mode", help="auto, leverage, or near: trust a nearly orthonormal basis.")
    ] = "auto",
    eta: Annotated[
        float | None, typer.Option("--eta", min=0.0, help="Bound on (d-1) rho known from theory; nothing is measured.")
    ] = None,
    ids: Annotated[Path | None, typer.Option("--ids", metavar="FILE", help="One id per point, a line each.")] = None,
    pool_weights: Weights = None,
    cost: Annotated[
        Path | None, typer.Option("--cost", metavar="FILE", help="Price of each label; chances go with 1/sqrt(price).")
    ] = None,
    exclude: Annotated[
        str | None, typer.Option("--exclude", metavar="FILE", help="Lines with `index` of points not to choose.")
    ] = None,
    with_x: Annotated[bool, typer.Option("--with-x", help="Carry the point in each line.")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Say on stderr whether uniform would do.")] = False,
    report_file: Annotated[
        Path | None, typer.Option("--report", metavar="FILE", help="Write the summary as JSON.")
    ] = None,
    seed: Seed = 0,
    on_error: OnError = "fail",
    quiet: Quiet = False,
) -> None:
    """Choose points to label, one JSON line each, sorted by row; weights estimate the sum over the pool.

    Example: llmsys al-sample select pool.npy -k 400 > todo.jsonl
    """
    from llmsys.al_sample import open_design, read_excluded, run_selection, selection_lines
    from llmsys.al_sample.pools import read_column

    design = open_design(
        pool, basis, intercept=intercept, seed=seed, ids=ids, weights=pool_weights,
        on_error=on_error, on_skip=lambda fault: note(f"skipped: {fault}"),
    )  # fmt: skip
    chosen, summary = run_selection(
        design, k, method, eps=eps, mode=basis_mode, eta=eta, seed=seed,
        exclude=None if exclude is None else read_excluded(exclude, design.pool),
        price=None if cost is None else read_column(cost, len(design), positive=True),
    )  # fmt: skip
    _tell(summary, report_file, explain=explain)
    with records_out() as out:
        for line in selection_lines(design.pool, chosen, with_x=with_x):
            out.write(line)


def _tell(summary: "SelectionSummary", path: Path | None, *, explain: bool) -> None:
    """Everything about a selection that is for a person or a report file."""
    for warning in summary.warnings:
        note(f"warning: {warning}")
    if explain:
        note(summary.advice)
    if path is not None:
        with records_out(str(path)) as out:
            out.write(asdict(summary))
    table([summary.row()], title="selection", stderr=True)
