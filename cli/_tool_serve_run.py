"""`llmsys tool-serve run`: requests in, the model and its tools at work, answers out."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmsys.cli._options import ChromeTrace, Device, DType, OnError, Quiet, one_of
from llmsys.cli._render import note, table
from llmsys.cli._streams import records_out
from llmsys.cli._tool_serve_options import Format, Sandbox, ToolSpecs

if TYPE_CHECKING:
    from llmsys.tool_serve.backends import Backend
    from llmsys.tool_serve.catalog import Catalog
    from llmsys.tool_serve.running import RunSettings

__all__ = ["run"]

Cell = str | int | float | bool | None

Policy = Annotated[
    str,
    typer.Option(
        "--policy",
        help="When calls start: partial (as they are written), seal (when complete), blocking (after the turn).",
        callback=one_of("partial", "seal", "blocking"),
    ),
]
Speculate = Annotated[
    str,
    typer.Option(
        "--speculate",
        help="The most that may happen before a call is complete: off, warm, pure, declared.",
        callback=one_of("off", "warm", "pure", "declared"),
    ),
]
OnInvalid = Annotated[
    str,
    typer.Option(
        "--on-invalid",
        help="A call that cannot become valid: stop decoding, or finish.",
        callback=one_of("stop", "finish"),
    ),
]
Model = Annotated[str, typer.Option("--model", help="Of embedded: a directory, a .gguf file, or smollm2.")]
Constrain = Annotated[
    str,
    typer.Option(
        "--constrain",
        help="Of embedded: auto (the first turn is a call), call (each is) or off.",
        callback=one_of("auto", "call", "off"),
    ),
]
ToolTimeout = Annotated[float, typer.Option("--tool-timeout", min=0.001, help="Seconds from the end of a call.")]
IdleTimeout = Annotated[float, typer.Option("--idle-timeout", min=0.001, help="Seconds between parts of a call.")]
Journal = Annotated[
    Path | None, typer.Option("--journal", metavar="DIR", help="Of staged calls; default: the user's state directory.")
]
EventsFile = Annotated[Path | None, typer.Option("--events", metavar="FILE", help="Write what happened to each call.")]


def run(
    requests: Annotated[str, typer.Argument(metavar="[FILE|-]", help="OpenAI batch lines; - is stdin.")] = "-",
    *,
    backend: Annotated[
        str, typer.Option("--backend", help="embedded, script:FILE, or URL#MODEL of a server.")
    ] = "embedded",
    model: Annotated[
        str, typer.Option("--model", help="Of embedded: a directory, a .gguf file, or smollm2.")
    ] = "smollm2",
    tools: ToolSpecs = None,
    policy: Policy = "partial",
    speculate: Speculate = "declared",
    on_invalid: OnInvalid = "stop",
    form: Format = "auto",
    constrain: Constrain = "auto",
    max_turns: Annotated[int, typer.Option("--max-turns", min=1, help="Turns of the model per request.")] = 8,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="Tokens of a turn.")] = 512,
    concurrency: Annotated[int, typer.Option("--concurrency", min=1, help="Requests at once.")] = 8,
    max_calls: Annotated[int, typer.Option("--max-calls", min=1, help="Calls at work at once.")] = 64,
    tool_timeout: ToolTimeout = 30.0,
    idle_timeout: IdleTimeout = 120.0,
    sandbox: Sandbox = "auto",
    journal: Journal = None,
    events: EventsFile = None,
    chrome_trace: ChromeTrace = None,
    device: Device = "auto",
    dtype: DType = "auto",
    on_error: OnError = "fail",
    quiet: Quiet = False,
) -> None:
    """Answer requests whose model calls tools, which run while it still writes; exit 1 if a request failed.

    Example: llmsys tool-serve run requests.jsonl --tools builtin:python,calculator > answers.jsonl
    """
    from llmsys.tool_serve.catalog import open_catalog
    from llmsys.tool_serve.opening import open_backend, settings_of

    settings = settings_of(
        policy=policy, speculate=speculate, on_invalid=on_invalid, form=form, max_turns=max_turns,
        max_tokens=max_tokens, concurrency=concurrency, max_calls=max_calls, tool_timeout_s=tool_timeout,
        idle_timeout_s=idle_timeout, journal=journal, events=events, chrome_trace=chrome_trace,
    )  # fmt: skip
    catalog = open_catalog(tools or [], sandbox=sandbox)
    made = open_backend(backend, model=model, form=form, constrain=constrain, device=device, dtype=dtype)
    if not _answer_all(requests, made, catalog, settings, on_error):
        raise typer.Exit(1)


def _answer_all(requests: str, backend: "Backend", catalog: "Catalog", settings: "RunSettings", on_error: str) -> bool:
    """Result lines on stdout as requests finish, a table on stderr; False if one failed."""
    from llmsys.tool_serve.opening import run_all

    rows: list[Mapping[str, Cell]] = []
    with records_out(flush_each=True) as out:
        outcome = run_all(
            requests, backend, catalog, settings, on_error=on_error, on_skip=lambda fault: note(f"skipped: {fault}"),
            on_line=out.write, on_row=rows.append,
        )  # fmt: skip
    if outcome.rolled_back:
        note(f"rolled back {outcome.rolled_back} calls that an earlier run had staged and not committed")
    if rows:
        table(rows, title=f"tools: {outcome.title}", stderr=True)
    return outcome.failed == 0
