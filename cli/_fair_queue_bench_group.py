"""`llmsys fair-queue bench`: every part beside its peers; one verb per part."""

import typer

from llmsys.cli import _fair_queue_bench_sim

__all__ = ["app"]

app = typer.Typer(help="Measure our parts beside their peers, in one run.", rich_markup_mode=None, no_args_is_help=True)
app.command()(_fair_queue_bench_sim.simulate)
app.command()(_fair_queue_bench_sim.order)
app.command()(_fair_queue_bench_sim.real)
