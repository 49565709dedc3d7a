"""`llmsys sample`: one small verb for every promise of the shell."""

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from llmsys.cli._options import (
    ChromeTrace,
    Color,
    Device,
    DType,
    Json,
    OnError,
    Plot,
    Quiet,
    Seed,
    Tenant,
    Threads,
)
from llmsys.cli._render import note, progress, report
from llmsys.cli._streams import records_out

app = typer.Typer(help="Verbs that the tests of the shell drive.", rich_markup_mode=None, no_args_is_help=True)

FAULTS = ("failed", "usage", "input", "unavailable", "oserror", "refused", "brokenpipe", "bug", "eof", "none")


@app.command()
def count(
    records: Annotated[int, typer.Argument(help="How many records.")],
    out: Annotated[str, typer.Option("-o", "--out", metavar="FILE", help="Where to; - is stdout.")] = "-",
    text: Annotated[bool, typer.Option(help="Write plain text first.")] = False,
) -> None:
    """Print numbered records."""
    if text:
        sys.stdout.write("text first\n")
    with records_out(out) as writer:
        for number in range(records):
            writer.write({"number": number})


@app.command()
def wait(out: Annotated[str, typer.Argument(help="A file that is half written when the signal comes.")]) -> None:
    """Write one record, say ready, and wait for a signal."""
    with records_out(out, flush_each=True) as writer:
        writer.write({"number": 0})
        sys.stderr.write("ready\n")
        sys.stderr.flush()
        signal.pause()


@app.command()
def fail(
    how: Annotated[str, typer.Argument(help="Which error.", autocompletion=lambda: list(FAULTS))],
    after: Annotated[int, typer.Option(help="Records to print before.")] = 0,
) -> None:
    """Print records, then fail in the way asked for."""
    from llmsys.errors import BadInput, LlmsysError, Unavailable, UsageFault

    faults = {
        "failed": LlmsysError("it failed\nin two lines"),
        "usage": UsageFault("--k 7 exceeds the 5 vectors; give at most 5"),
        "input": BadInput("trace.jsonl:3", "arrival_s is -1", "0 or more"),
        "unavailable": Unavailable("no CUDA device", "use --device cpu"),
        "oserror": FileNotFoundError(2, "No such file or directory", "missing.jsonl"),
        "refused": ConnectionRefusedError(111, "Connection refused"),
        "brokenpipe": BrokenPipeError(32, "Broken pipe"),
        "bug": ZeroDivisionError("division by zero"),
        "eof": EOFError("stream ended"),
    }
    with records_out() as writer:
        for number in range(after):
            writer.write({"number": number})
        if how in faults:
            raise faults[how]


@app.command()
def settings(
    *,
    device: Device = "auto",
    dtype: DType = "auto",
    threads: Threads = 0,
    seed: Seed = 0,
    on_error: OnError = "fail",
    tenant: Tenant = None,
    plot: Plot = None,
    chrome_trace: ChromeTrace = None,
) -> None:
    """Print the value that every shared option took."""
    with records_out() as writer:
        writer.write(
            {
                "device": device,
                "dtype": dtype,
                "threads": threads,
                "seed": seed,
                "on_error": on_error,
                "tenant": tenant,
                "plot": plot,
                "chrome_trace": Path(chrome_trace) if chrome_trace else None,
            }
        )


@app.command()
def summary(json: Json = False, quiet: Quiet = False, color: Color = "auto") -> None:
    """Tell a person something, make progress, and print a summary."""
    note("a note")
    with progress("counting", total=2) as advance:
        advance(1)
        advance(1)
    rows = [
        {"name": "first", "tokens": 1234, "rate": 0.123456, "ok": True},
        {"name": "second", "tokens": None, "rate": 98765.4321, "ok": False},
    ]
    report({"rows": rows}, rows, title="Summary", json=json)
