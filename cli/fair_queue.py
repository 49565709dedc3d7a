"""`llmsys fair-queue`: options in, `llmsys.fair_queue` called, records out."""

from typing import TYPE_CHECKING, Annotated

import typer

from llmsys.cli import _fair_queue_trace
from llmsys.cli._options import Json, OnError, Quiet, one_of
from llmsys.cli._render import note, report, table
from llmsys.cli._streams import records_out

if TYPE_CHECKING:
    from llmsys.fair_queue.audit import Report

app = typer.Typer(help="Fair scheduling of tenants by tokens served.", rich_markup_mode=None, no_args_is_help=True)
app.add_typer(_fair_queue_trace.app, name="trace")

Weights = Annotated[
    list[str] | None,
    typer.Option("--weight", metavar="TENANT=W", help="Weight of a tenant, 1 if not given; may repeat."),
]


@app.command()
def order(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Trace or OpenAI batch lines; - is stdin.")] = "-",
    *,
    policy: Annotated[str, typer.Option("--policy", help="NAME[:key=value,...]: vtc, lcf, drr or fcfs.")] = "vtc",
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
    from llmsys.fair_queue.policy import create, parse_weights

    chosen = create(policy, parse_weights(weight))
    lines = order_lines(
        file,
        chosen,
        window=window,
        default_max_tokens=default_max_tokens,
        on_error=on_error,
        on_skip=lambda fault: note(f"skipped: {fault}"),
    )
    with records_out() as out:
        for line in lines:
            out.write_line(line)


@app.command()
def audit(
    log: Annotated[str, typer.Argument(metavar="LOG", help="An event log; .gz and .zst too; - is stdin.")] = "-",
    *,
    prompt_weight: Annotated[
        float | None, typer.Option("--wp", min=0, help="Cost of a prompt token; the log's own if not given.")
    ] = None,
    output_weight: Annotated[
        float | None, typer.Option("--wq", min=0, help="Cost of an output token; the log's own if not given.")
    ] = None,
    bound: Annotated[
        str,
        typer.Option(
            "--bound",
            help="The constant U: log (what the log itself proves) or paper (from the memory in the log's meta).",
            callback=one_of("log", "paper"),
        ),
    ] = "log",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say whether a log was fair: every bound of the theory with its worst case; exit 1 if one is violated.

    Example: llmsys serve-lora run batch.jsonl --events e.jsonl > out.jsonl && llmsys fair-queue audit e.jsonl
    """
    from llmsys.fair_queue.audit import check_file

    verdict = check_file(log, wp=prompt_weight, wq=output_weight, bound=bound)
    for warning in verdict.warnings:
        note(f"warning: {warning}")
    report(verdict, _tenant_rows(verdict), title=f"service per tenant, policy {verdict.policy}", json=json)
    if not json:
        table(_check_rows(verdict), title=f"bounds with U_log = {verdict.U_log:g}", stderr=True)
        note(f"fair: {'yes' if verdict.holds else 'NO'}; worst gap {verdict.worst_gap:g} of {verdict.bound:g} allowed")
    if not verdict.holds:
        raise typer.Exit(1)


def _tenant_rows(verdict: "Report") -> list[dict[str, str | float | int | None]]:
    return [
        {
            "tenant": name,
            "requests": tenant.requests,
            "service": tenant.service,
            "share": tenant.share,
            "backlogged s": tenant.backlogged_s,
            "longest wait s": tenant.longest_wait_s,
            "ttft p50 s": tenant.ttft_s[0],
            "ttft p95 s": tenant.ttft_s[1],
        }
        for name, tenant in verdict.tenants.items()
    ]


def _check_rows(verdict: "Report") -> list[dict[str, str | float | bool]]:
    return [
        {
            "statement": one.statement,
            "worst": one.worst,
            "bound": one.bound,
            "holds": one.holds,
            "tenants": ", ".join(one.tenants),
        }
        for one in verdict.checks
    ]
