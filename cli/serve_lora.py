"""`llmsys serve-lora`: options in, `llmsys.serve_lora` called, records out."""

from pathlib import Path
from typing import Annotated

import typer

from llmsys.cli._options import ChromeTrace, Device, DType, Json, OnError, Quiet, Seed, Threads, one_of
from llmsys.cli._render import note, progress, report, table
from llmsys.cli._serve_lora_adapters import adapters
from llmsys.cli._streams import records_out

app = typer.Typer(help="Many LoRA adapters on one base model, in one batch.", rich_markup_mode=None)
cost = typer.Typer(help="What a ledger adds up to.", rich_markup_mode=None)
app.add_typer(adapters, name="adapters")
app.add_typer(cost, name="cost")

Prices = Annotated[
    Path | None, typer.Option("--prices", metavar="FILE.toml", help="currency, device_per_hour, host_ram_gb_per_hour.")
]


@app.command()
def run(  # noqa: PLR0913, PLR0917
    source: Annotated[
        str, typer.Argument(metavar="[FILE|-]", help="OpenAI batch lines; .gz and .zst too; - is stdin.")
    ] = "-",
    model: Annotated[
        str, typer.Option("--model", metavar="MODEL", help="Base model: a directory, a .gguf file, or smollm2.")
    ] = "smollm2",
    adapters: Annotated[
        Path | None, typer.Option("--adapters", metavar="DIR", help="Each sub-directory is an adapter, by its name.")
    ] = None,
    adapter: Annotated[
        list[str] | None, typer.Option("--adapter", metavar="NAME=PATH", help="One more adapter; repeat for more.")
    ] = None,
    concurrency: Annotated[int, typer.Option("--concurrency", min=1, help="Sequences that run at once.")] = 64,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="Limit of a line that names none.")] = 128,
    policy: Annotated[
        str, typer.Option("--policy", help="Who is admitted next: fcfs, vtc, … as in `llmsys fair-queue`.")
    ] = "fcfs",
    ordered: Annotated[bool, typer.Option("--ordered", help="Results in the order of their lines.")] = False,
    resume: Annotated[
        Path | None, typer.Option("--resume", metavar="OUT", help="Skip lines that OUT answers; append to it: >> OUT.")
    ] = None,
    events: Annotated[
        Path | None, typer.Option("--events", metavar="FILE", help="Write what happened, for `fair-queue audit`.")
    ] = None,
    ledger: Annotated[
        Path | None, typer.Option("--ledger", metavar="FILE", help="Append what it cost, for `cost report`.")
    ] = None,
    prices: Prices = None,
    chrome_trace: ChromeTrace = None,
    on_error: OnError = "fail",
    seed: Seed = 0,
    device: Device = "auto",
    dtype: DType = "auto",
    threads: Threads = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Answer a batch: result lines on stdout as they finish, a table per tenant on stderr.

    A line's model names the base model or an adapter; its tenant, or else its user, is who pays. A request that cannot
    run gets an error line, and the others go on.

    llmsys serve-lora run requests.jsonl --adapters ./adapters > answers.jsonl

    zcat day.jsonl.gz | llmsys serve-lora run - --adapters ./adapters --policy vtc --events day.events.jsonl
    """
    from llmsys.artifacts import encode, read_requests, write_chrome_trace
    from llmsys.fair_queue.policy import engine_policy
    from llmsys.gpu import set_threads
    from llmsys.serve_lora import (
        PriceList,
        Records,
        RunSettings,
        adapter_paths,
        finished_ids,
        in_order,
        open_session,
        read_prices,
    )

    set_threads(threads)
    settings = RunSettings(
        model=model,
        adapters=adapter_paths(adapters, adapter or []),
        device=device,
        dtype=dtype,
        seed=seed,
        concurrency=concurrency,
        max_tokens=max_tokens,
        policy=engine_policy(policy),
        policy_spec=policy,
    )
    price_list = read_prices(prices) if prices else PriceList()
    done = finished_ids(resume) if resume else set()
    lines = (
        line
        for line in read_requests(source, on_error=on_error, on_skip=lambda fault: note(f"skipped: {fault}"))
        if line.custom_id not in done
    )
    with (
        records_out(flush_each=True) as out,
        progress("requests") as advance,
        open_session(settings, Records(events, ledger, price_list)) as session,
    ):
        results = session.results(lines)
        for result in in_order(results) if ordered else (result for _, result in results):
            out.write(result)
            advance(1)
    if chrome_trace:
        write_chrome_trace(chrome_trace, session.book.spans())
    rows = session.book.totals.rows(price_list)
    if json:
        note(encode(session.book.summary(price_list)).decode().rstrip())
    else:
        table(rows, title=f"cost in {price_list.currency}", stderr=True)


@cost.command("report")
def cost_report(
    ledger: Annotated[Path, typer.Argument(metavar="LEDGER", help="What `serve-lora run --ledger` wrote.")],
    by: Annotated[
        str, typer.Option("--by", help="Groupings, comma-separated: tenant, adapter, hour.")
    ] = "tenant,adapter",
    idle: Annotated[
        str,
        typer.Option(
            "--idle",
            help="Idle time and overhead: platform (lines of their own) or spread (over the tenants).",
            callback=one_of("platform", "spread"),
        ),
    ] = "platform",
    prices: Prices = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Add up a ledger and show that nothing is missing: charged + overhead + idle = devices × time × price.

    llmsys serve-lora cost report day.ledger.jsonl --by tenant --prices prices.toml
    """
    from llmsys.serve_lora import read_ledger, read_prices, report_cost

    runs, torn_lines = read_ledger(ledger)
    found = report_cost(
        runs,
        by=by.split(","),
        idle=idle,
        prices=read_prices(prices) if prices else None,
        torn_lines=torn_lines,
    )
    report(found.as_record(), found.table(), title=f"cost in {found.currency}", json=json)
    note(found.balance_line())
