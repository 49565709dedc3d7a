"""`llmsys fair-queue trace`: workload traces in and out, `llmsys.fair_queue.traces` called."""

from pathlib import Path
from typing import Annotated

import typer

from llmsys.cli._options import Json, OnError, Quiet, Seed, one_of
from llmsys.cli._render import note, report
from llmsys.cli._streams import records_out

app = typer.Typer(help="Import, generate and reshape workload traces.", rich_markup_mode=None, no_args_is_help=True)

Trace = Annotated[str, typer.Argument(metavar="TRACE", help="A trace: JSON Lines, .gz and .zst too; - is stdin.")]
__all__ = ["app"]

FORMATS = ("azure", "burstgpt", "mooncake", "vtc-log", "openai-batch", "sharegpt")


@app.command("import")
def import_trace(
    form: Annotated[
        str, typer.Argument(metavar="FORMAT", help=f"One of {', '.join(FORMATS)}.", callback=one_of(*FORMATS))
    ],
    file: Annotated[str, typer.Argument(metavar="FILE", help="The file as published; - is stdin.")],
    *,
    tenant: Annotated[str | None, typer.Option("--tenant", help="Give every request to this tenant.")] = None,
    tenants: Annotated[
        str | None, typer.Option("--tenants", help="Invent tenants: zipf:N,alpha=1, or by=COLUMN.")
    ] = None,
    start: Annotated[
        str | None, typer.Option("--start", help="Timestamp that becomes 0 s (azure); default: the first row's.")
    ] = None,
    failed: Annotated[
        str,
        typer.Option(
            "--failed", help="Rows without a response (burstgpt): drop or keep.", callback=one_of("drop", "keep")
        ),
    ] = "drop",
    tokenizer: Annotated[
        Path | None, typer.Option("--tokenizer", help="Directory with tokenizer.json (sharegpt); else 4 bytes a token.")
    ] = None,
    rate: Annotated[
        float | None, typer.Option("--rate", min=1e-9, help="Poisson arrivals per second, for sources without times.")
    ] = None,
    seed: Seed = 42,
    quiet: Quiet = False,
) -> None:
    """Turn a published trace into the house's trace format.

    Tenants that a source does not name are an assumption, made only on request and said on stderr.
    Example: llmsys fair-queue trace import azure azure2023_conv.csv --tenant conv
    """
    from llmsys.fair_queue.traces import assign_tenants, count_with, poisson_arrivals, read_published

    counter = count_with(tokenizer) if tokenizer is not None else None
    rows = read_published(form, file, start=start, failed=failed, count_tokens=counter)
    if rate is not None:
        rows = poisson_arrivals(rows, rate=rate, seed=seed)
    if tenant is not None or tenants is not None:
        note(f"tenants are assumed: {tenant or tenants}")
    with records_out() as out:
        for record in assign_tenants(rows, tenant=tenant, rule=tenants, seed=seed):
            out.write(record)


@app.command()
def generate(
    suite: Annotated[
        str | None, typer.Argument(metavar="SUITE", help="A workload of the VTC paper, as overload or increase.")
    ] = None,
    client: Annotated[
        list[str] | None,
        typer.Option("--client", help="Instead: rate=1.5,in=256,out=16-512,process=poisson,start=0; may repeat."),
    ] = None,
    duration: Annotated[float, typer.Option("--duration", min=0.0, help="Seconds of arrivals for --client.")] = 600.0,
    seed: Seed = 42,
    quiet: Quiet = False,
) -> None:
    """Write a made-up trace: a suite of the paper, draw for draw as its artifact makes it, or clients of your own.

    Example: llmsys fair-queue trace generate overload
    """
    from llmsys.fair_queue.traces import generate_clients, generate_suite, parse_client

    if (suite is None) == (not client):
        raise typer.BadParameter("give either a SUITE or --client, not both and not neither")
    clients = [parse_client(text) for text in client or []]
    records = generate_suite(suite, seed=seed) if suite else generate_clients(clients, duration_s=duration, seed=seed)
    with records_out() as out:
        for record in records:
            out.write(record)


@app.command()
def stats(trace: Trace = "-", json: Json = False, on_error: OnError = "fail", quiet: Quiet = False) -> None:
    """Say what is in a trace: requests, tokens and time, per tenant."""
    from dataclasses import asdict

    from llmsys.artifacts import read_trace
    from llmsys.fair_queue.traces import summarize

    summary = asdict(summarize(read_trace(trace, on_error=on_error, on_skip=lambda fault: note(f"skipped: {fault}"))))
    rows = [{"tenant": name, **totals} for name, totals in summary["tenants"].items()]
    title = f"{summary['requests']} requests in {summary['span_s']:.1f} s"
    report(summary, rows, title=title, json=json)


@app.command()
def mix(
    traces: Annotated[list[str], typer.Argument(metavar="TRACE...", help="Traces on one clock.")],
    quiet: Quiet = False,
) -> None:
    """Merge traces by arrival; ids that collide are told apart by their trace's number."""
    from llmsys.artifacts import read_trace
    from llmsys.fair_queue.traces import mix as merged

    with records_out() as out:
        for record in merged([read_trace(trace) for trace in traces]):
            out.write(record)


@app.command()
def scale(
    trace: Trace = "-",
    rate: Annotated[float, typer.Option("--rate", min=1e-9, help="How many times as fast.")] = 1.0,
    on_error: OnError = "fail",
    quiet: Quiet = False,
) -> None:
    """Speed a trace up: everything arrives --rate times as fast."""
    from llmsys.artifacts import read_trace
    from llmsys.fair_queue.traces import scale as sped_up

    records = read_trace(trace, on_error=on_error, on_skip=lambda fault: note(f"skipped: {fault}"))
    with records_out() as out:
        for record in sped_up(records, rate=rate):
            out.write(record)


@app.command()
def requests(
    trace: Trace,
    *,
    prompts: Annotated[
        str, typer.Option("--prompts", help="JSON Lines with a text in question, prompt, text or turns.")
    ],
    models: Annotated[str, typer.Option("--models", help="Models or adapters, separated by commas.")],
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Stop after N requests.")] = None,
    max_tokens: Annotated[int | None, typer.Option("--max-tokens", min=1, help="Longest answer to ask for.")] = None,
    on_error: OnError = "fail",
    quiet: Quiet = False,
) -> None:
    """Turn a trace into OpenAI batch lines with real prompts; each prompt goes to every model in turn.

    Tenants and arrivals stay those of the trace, as top-level tenant and arrival_s.
    """
    from itertools import islice

    from llmsys.artifacts import read_trace
    from llmsys.fair_queue.traces import read_prompts, requests_from_trace

    texts = list(read_prompts(prompts))
    names = [name for name in models.split(",") if name]
    records = read_trace(trace, on_error=on_error, on_skip=lambda fault: note(f"skipped: {fault}"))
    with records_out() as out:
        for request in requests_from_trace(islice(records, limit), texts, names, max_tokens=max_tokens):
            out.write(request)
