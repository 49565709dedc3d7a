"""`llmsys serve-lora`: options in, `llmsys.serve_lora` called, records out."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmsys.cli._options import ChromeTrace, Device, DType, Json, OnError, Quiet, Seed, Threads, one_of
from llmsys.cli._render import note, progress, report, table
from llmsys.cli._serve_lora_adapters import adapters
from llmsys.cli._serve_lora_bench import bench
from llmsys.cli._serve_lora_cluster import calibrate, plan, simulate
from llmsys.cli._serve_lora_serve import serve
from llmsys.cli._streams import records_out

if TYPE_CHECKING:
    from llmsys.serve_lora.prices import PriceList
    from llmsys.serve_lora.run_book import RunBook

app = typer.Typer(help="Many LoRA adapters on one base model, in one batch.", rich_markup_mode=None)
cost = typer.Typer(help="What a ledger adds up to.", rich_markup_mode=None)
for verb in (serve, simulate, plan, calibrate, bench):
    app.command()(verb)
app.add_typer(adapters, name="adapters")
app.add_typer(cost, name="cost")

__all__ = ["app"]

Source = Annotated[str, typer.Argument(metavar="[FILE|-]", help="OpenAI batch lines; .gz and .zst too; - is stdin.")]
Model = Annotated[
    str, typer.Option("--model", metavar="MODEL", help="Base model: a directory, a .gguf file, or smollm2.")
]
Adapters = Annotated[
    Path | None, typer.Option("--adapters", metavar="DIR", help="Each sub-directory is an adapter, by its name.")
]
Adapter = Annotated[
    list[str] | None, typer.Option("--adapter", metavar="NAME=PATH", help="One more adapter; repeat for more.")
]
Concurrency = Annotated[int, typer.Option("--concurrency", min=1, help="Sequences that run at once.")]
MaxTokens = Annotated[int, typer.Option("--max-tokens", min=1, help="Limit of a line that names none.")]
PolicySpec = Annotated[str, typer.Option("--policy", help="Who is admitted next, as in `llmsys fair-queue`.")]
Ordered = Annotated[bool, typer.Option("--ordered", help="Results in the order of their lines.")]
Resume = Annotated[
    Path | None, typer.Option("--resume", metavar="OUT", help="Skip lines that OUT answers; append with >> OUT.")
]
EventsFile = Annotated[
    Path | None, typer.Option("--events", metavar="FILE", help="Write what happened, for `fair-queue audit`.")
]
LedgerFile = Annotated[
    Path | None, typer.Option("--ledger", metavar="FILE", help="Append what it cost, for `cost report`.")
]
Prices = Annotated[
    Path | None, typer.Option("--prices", metavar="FILE.toml", help="currency, device_per_hour, host_ram_gb_per_hour.")
]


@app.command()
def run(
    source: Source = "-",
    model: Model = "smollm2",
    adapters: Adapters = None,
    adapter: Adapter = None,
    concurrency: Concurrency = 64,
    max_tokens: MaxTokens = 128,
    policy: PolicySpec = "vtc",
    ordered: Ordered = False,
    resume: Resume = None,
    events: EventsFile = None,
    ledger: LedgerFile = None,
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
    from llmsys import gpu
    from llmsys.artifacts import write_chrome_trace
    from llmsys.fair_queue.policy import engine_policy
    from llmsys.serve_lora import batch_files, batch_session, read_prices

    gpu.set_threads(threads)
    paths = batch_files.adapter_paths(adapters, adapter or [])
    scheduling = engine_policy(policy)
    settings = batch_session.RunSettings(
        model, paths, device, dtype, seed, concurrency, max_tokens, policy=scheduling, policy_spec=policy
    )
    records = batch_session.Records(events, ledger, read_prices(prices))
    lines = batch_files.pending_lines(
        source, resume, on_error=on_error, on_skip=lambda fault: note(f"skipped: {fault}")
    )
    with (
        records_out(flush_each=True) as out,
        progress("requests") as advance,
        batch_session.open_session(settings, records) as session,
    ):
        for result in session.results(lines, ordered=ordered):
            out.write(result)
            advance(1)
    if chrome_trace:
        write_chrome_trace(chrome_trace, session.book.spans())
    _show_totals(session.book, records.prices, json=json)


def _show_totals(book: "RunBook", prices: "PriceList", *, json: bool) -> None:
    """The run's summary on stderr, as stdout carries results: a table per tenant, or one JSON line."""
    from llmsys.artifacts import encode

    if json:
        sys.stderr.write(encode(book.summary(prices)).decode())
    else:
        table(book.totals.table(prices), title=f"cost in {prices.currency}", stderr=True)


@app.command()
def answers(
    requests: Annotated[str, typer.Argument(metavar="REQUESTS", help="The batch lines that were asked.")],
    results: Annotated[str, typer.Argument(metavar="RESULTS", help="The result lines of `run`; - is stdin.")] = "-",
    *,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Stop after N prompts.")] = None,
    quiet: Quiet = False,
) -> None:
    """Set answers side by side: each prompt once, with every model's or adapter's answer to it.

    llmsys serve-lora answers requests.jsonl answers.jsonl --limit 3
    """
    from llmsys.serve_lora import answers_by_prompt

    with records_out() as out:
        for prompt in answers_by_prompt(requests, results, limit=limit):
            out.write(prompt)


@cost.command("report")
def cost_report(
    ledgers: Annotated[
        list[Path], typer.Argument(metavar="LEDGER...", help="What --ledger wrote; of replicas one file each.")
    ],
    by: Annotated[
        str, typer.Option("--by", help="Groupings, comma-separated: tenant, adapter, hour.")
    ] = "tenant,adapter",
    idle: Annotated[
        str,
        typer.Option(
            "--idle",
            help="Idle time and overhead: platform (lines of their own), spread (over those who ran in that second), "
            "or owner (a second in which nobody ran: over those who ran last).",
            callback=one_of("platform", "spread", "owner"),
        ),
    ] = "platform",
    prices: Prices = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Add up a ledger and show that nothing is missing: charged + overhead + idle = devices × time × price.

    llmsys serve-lora cost report day.ledger.jsonl --by tenant --prices prices.toml
    """
    from llmsys.serve_lora import read_ledgers, read_prices, report_cost

    runs, torn_lines = read_ledgers(ledgers)
    given = read_prices(prices) if prices else None
    found = report_cost(runs, by=by.split(","), idle=idle, prices=given, torn_lines=torn_lines)
    report(found.as_record(), found.table(), title=f"cost in {found.currency}", json=json)
    note(found.balance_line())
