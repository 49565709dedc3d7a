"""`llmsys tool-serve`: options in, `llmsys.tool_serve` called, records out."""

from typing import Annotated

import typer

from llmsys.cli import _tool_serve_bench, _tool_serve_replay, _tool_serve_run, _tool_serve_tools
from llmsys.cli._options import OnError, Quiet
from llmsys.cli._render import note
from llmsys.cli._streams import records_out
from llmsys.cli._tool_serve_options import Format

__all__ = ["app"]

app = typer.Typer(
    help="Tool calls that start while the model still writes them.", rich_markup_mode=None, no_args_is_help=True
)


@app.command()
def parse(
    source: Annotated[str, typer.Argument(metavar="[FILE|-]", help="Raw text of a model; - is stdin.")] = "-",
    *,
    form: Format = "auto",
    schema: Annotated[
        str | None,
        typer.Option("--schema", metavar="TOOLS", help="An OpenAI tools array: calls are held to their schemas."),
    ] = None,
    chunked: Annotated[
        bool,
        typer.Option("--chunked", help='Lines {"doc","text"} of many documents, each ended by {"doc","end":true}.'),
    ] = False,
    on_error: OnError = "fail",
    quiet: Quiet = False,
) -> None:
    """Print the calls in what a model wrote, event by event, each as soon as its text was read.

    Example: echo '<tool_call>{"name":"f","arguments":{"a":1}}</tool_call>' | llmsys tool-serve parse --format hermes
    """
    from llmsys.tool_serve.parsing import parse_chunks, parse_text, read_schemas

    schemas = read_schemas(schema) if schema is not None else None
    lines = (
        parse_chunks(source, form, schemas, on_error=on_error, on_skip=lambda fault: note(f"skipped: {fault}"))
        if chunked
        else parse_text(source, form, schemas)
    )
    with records_out(flush_each=True) as out:
        for line in lines:
            out.write(line)


app.command()(_tool_serve_run.run)
app.command()(_tool_serve_replay.replay)
app.command()(_tool_serve_bench.bench)
app.add_typer(_tool_serve_tools.app, name="tools")
