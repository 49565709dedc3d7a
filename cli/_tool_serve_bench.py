"""`llmsys tool-serve bench`: what starting tools early saves, workload by workload, beside waiting for them."""

from dataclasses import asdict
from typing import Annotated

import typer

from llmsys.cli._options import Json, Quiet
from llmsys.cli._render import note, progress, report

__all__ = ["bench"]


def bench(
    *,
    only: Annotated[
        str,
        typer.Option(
            "--only", help="all, or some: code, search, planning, database, validation, calculator, parallel."
        ),
    ] = "all",
    rate: Annotated[
        str, typer.Option("--rate", help="Tokens per second of the scripted model, comma-separated.")
    ] = "40",
    repeat: Annotated[int, typer.Option("--repeat", min=1, help="Different turns of each workload.")] = 5,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure turns with real tools under blocking, seal and partial execution, beside a peer and the bound of each.

    Example: llmsys tool-serve bench --only code,calculator --rate 20,40
    """
    from llmsys.tool_serve.bench_session import bench_plan, run_bench

    plan = bench_plan(only, rate, repeat)
    with progress("turns", plan.turns) as advance:
        found = run_bench(plan, advance)
    if found.missing:
        note(f"not installed, so not measured: {', '.join(found.missing)}")
    report(
        found, [asdict(one) for one in found.rows], title=f"tools while the call is written: {found.machine}", json=json
    )
