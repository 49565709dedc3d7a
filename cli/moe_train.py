"""`llmsys moe-train`: options in, `llmsys.moe_train` called, records out."""

import typer

from llmsys.cli import _moe_train_bench, _moe_train_plan, _moe_train_run, _moe_train_simulate

__all__ = ["app"]

app = typer.Typer(
    help="Elastic mixture-of-experts training that survives failures.", rich_markup_mode=None, no_args_is_help=True
)
for verb in (*_moe_train_plan.VERBS, *_moe_train_simulate.VERBS, *_moe_train_run.VERBS, *_moe_train_bench.VERBS):
    app.command()(verb)
