"""Verbs of `llmsys vindex` that answer others: serve over HTTP, tool over standard input and output."""

from pathlib import Path
from typing import Annotated

import typer

from llmsys.cli._options import Quiet
from llmsys.cli._render import note
from llmsys.cli._streams import records_out

__all__ = ["VERBS"]

Place = Annotated[Path, typer.Argument(metavar="IDX", help="Directory that `vindex build` wrote.")]


def serve(
    index: Place,
    *,
    listen: Annotated[
        str, typer.Option("--listen", metavar="HOST:PORT", help="Where to listen; port 0 takes a free one.")
    ] = "127.0.0.1:8108",
    tokens: Annotated[
        Path | None,
        typer.Option("--tokens", metavar="FILE", help='Lines {"token","tenant"} or {"token","admin":true}.'),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Serve an index over HTTP: /v1/search, /v1/apply, /v1/stats, /metrics, /healthz, and Qdrant's points.

    It holds the index for writing. A token speaks for one tenant, or for an administrator.
    Example: llmsys vindex serve idx --listen 127.0.0.1:8108
    """
    from llmsys.vindex import Index
    from llmsys.vindex.access_tokens import Tokens, read_tokens
    from llmsys.vindex.serving import listening
    from llmsys.vindex.serving import serve as run

    known = Tokens() if tokens is None else read_tokens(tokens)
    with listening(listen, known) as sock, Index.open(index, "w") as opened:
        run(opened, sock, known, lambda address: note(f"listening on {address}"))


def tool(
    index: Place,
    *,
    tenant: Annotated[str, typer.Option("--tenant", help="Whose vectors the tool sees.")],
    recall: Annotated[float, typer.Option("--recall", min=0.01, max=1, help="Recall wanted.")] = 0.95,
    quiet: Quiet = False,
) -> None:
    """Offer the search of one tenant's vectors to a model: a tool of the Model Context Protocol on stdin and stdout.

    Example: echo '{"id":1,"method":"tools/list"}' | llmsys vindex tool idx --tenant acme
    """
    from llmsys.artifacts import read_lines
    from llmsys.vindex import Index
    from llmsys.vindex.mcp_tool import SearchTool, answers

    offered = SearchTool(Index.open(index), tenant, recall)
    with records_out(flush_each=True) as out:
        for answer in answers(offered, (line for _, line in read_lines("-") if line.strip())):
            out.write(answer)


VERBS = (serve, tool)
