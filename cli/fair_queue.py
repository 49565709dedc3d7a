"""`llmsys fair-queue`: options in, `llmsys.fair_queue` called, records out."""

from typing import Annotated

import typer

from llmsys.cli import (
    _fair_queue_audit,
    _fair_queue_bench,
    _fair_queue_bench_sim,
    _fair_queue_gateway,
    _fair_queue_simulate,
    _fair_queue_trace,
)
from llmsys.cli._options import OnError, Quiet
from llmsys.cli._render import note
from llmsys.cli._streams import records_out

__all__ = ["app"]

app = typer.Typer(help="Fair scheduling of tenants by tokens served.", rich_markup_mode=None, no_args_is_help=True)
app.add_typer(_fair_queue_trace.app, name="trace")
app.add_typer(_fair_queue_simulate.app, name="simulate")
app.command()(_fair_queue_audit.audit)
app.add_typer(_fair_queue_bench.app, name="bench")
_fair_queue_bench.app.command()(_fair_queue_bench_sim.simulate)
_fair_queue_bench.app.command()(_fair_queue_bench_sim.order)
_fair_queue_bench.app.command()(_fair_queue_bench_sim.real)
app.add_typer(_fair_queue_gateway.app, name="gateway")
app.add_typer(_fair_queue_gateway.app, name="serve", hidden=True)

Weights = Annotated[
    list[str] | None,
    typer.Option("--weight", metavar="TENANT=W", help="Weight of a tenant, 1 if not given; may repeat."),
]


@app.command()
def order(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Trace or OpenAI batch lines; - is stdin.")] = "-",
    *,
    policy: Annotated[
        str, typer.Option("--policy", help="NAME[:key=value,...]: any policy that refuses nothing.")
    ] = "vtc",
    weight: Weights = None,
    window: Annotated[int, typer.Option("--window", min=1, help="Lines that may be held back.")] = 10_000,
    default_max_tokens: Annotated[
        int, typer.Option("--default-max-tokens", min=0, help="Output tokens of a batch line that sets no limit.")
    ] = 512,
    on_error: OnError = "fail",
    quiet: Quiet = False,
) -> None:
    """Put requests in fair order: the same lines, byte for byte, those of the tenant served least first.

    Example: llmsys fair-queue order batch.jsonl --window 1000 | llmsys serve-lora run -
    """
    from llmsys.fair_queue import order_lines
    from llmsys.fair_queue.policy import parse_weights

    lines = order_lines(
        file,
        policy,
        weights=parse_weights(weight),
        window=window,
        default_max_tokens=default_max_tokens,
        on_error=on_error,
        on_skip=lambda fault: note(f"skipped: {fault}"),
    )
    with records_out() as out:
        for some in lines:
            out.write_line(b"".join(some))
