"""`llmsys tool-serve tools`: what tools declare, whether they keep to it, and one call of one of them."""

from typing import Annotated

import typer

from llmsys.cli._options import Json, Quiet
from llmsys.cli._render import report
from llmsys.cli._streams import records_out
from llmsys.cli._tool_serve_options import Sandbox, ToolSpecs

__all__ = ["app"]

app = typer.Typer(help="List, check and call tools.", rich_markup_mode=None, no_args_is_help=True)


@app.command(name="list")
def list_tools(*, tools: ToolSpecs = None, sandbox: Sandbox = "auto", json: Json = False, quiet: Quiet = False) -> None:
    """Show what tools declare: effect, what they are fed, limits, arguments.

    Example: llmsys tool-serve tools list --tools builtin:python,calculator --json
    """
    from llmsys.tool_serve.catalog import open_catalog
    from llmsys.tool_serve.trying import described

    facts = [described(one) for one in open_catalog(tools or [], sandbox=sandbox).tools]
    report(
        {"tools": facts}, [{name: str(one[name]) for name in one if name != "parameters"} for one in facts], json=json
    )


@app.command()
def call(
    name: Annotated[str, typer.Argument(help="The tool.")],
    arguments: Annotated[str, typer.Argument(metavar="[JSON|-]", help="Its arguments; - reads them from stdin.")] = "-",
    *,
    tools: ToolSpecs = None,
    sandbox: Sandbox = "auto",
    stream: Annotated[bool, typer.Option("--stream", help="Feed the arguments as stdin brings them.")] = False,
    quiet: Quiet = False,
) -> None:
    """Call one tool and print its result; exit 1 if it failed.

    Example: llmsys tool-serve tools call calculator '{"expression":"6*7"}' --tools builtin:calculator
    """
    from llmsys.tool_serve.trying import call_once

    found = call_once(name, arguments, tools or [], sandbox=sandbox, stream=stream)
    with records_out() as out:
        out.write(found.record())
    if found.failed:
        raise typer.Exit(1)
