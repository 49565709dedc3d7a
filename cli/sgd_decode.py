"""`llmsys sgd-decode`: options in, `llmsys.sgd_decode` called, records out."""

import typer

from llmsys.cli._sgd_decode_bench import app as bench
from llmsys.cli._sgd_decode_compare import compare
from llmsys.cli._sgd_decode_plan import plan
from llmsys.cli._sgd_decode_run import run
from llmsys.cli._sgd_decode_serve import serve

__all__ = ["app"]

app = typer.Typer(
    help="Answers as dependency graphs of parts, decoded in parallel.", rich_markup_mode=None, no_args_is_help=True
)
for verb in (run, plan, compare, serve):
    app.command()(verb)
app.add_typer(bench, name="bench")
