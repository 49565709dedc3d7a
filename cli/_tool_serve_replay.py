"""`llmsys tool-serve replay`: what starting tools early would save, from a trace alone."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmsys.cli._options import OnError, Plot, Quiet
from llmsys.cli._render import note, table
from llmsys.cli._streams import records_out

if TYPE_CHECKING:
    from llmsys.tool_serve.replay import ReplayedTurn

__all__ = ["replay"]


def replay(
    trace: Annotated[
        str, typer.Argument(metavar="[TRACE|-]", help="Events of `run --events`, or assumed calls with units.")
    ] = "-",
    *,
    rate: Annotated[
        str, typer.Option("--rate", help="Tokens per second at which assumed calls are written, comma-separated.")
    ] = "40",
    policy: Annotated[
        str, typer.Option("--policy", help="Which to print: blocking, seal, partial, comma-separated.")
    ] = "blocking,seal,partial",
    concurrency: Annotated[int, typer.Option("--max-calls", min=1, help="Calls of a turn at work at once.")] = 64,
    plot: Plot = None,
    on_error: OnError = "fail",
    quiet: Quiet = False,
) -> None:
    """Print each turn of a trace under blocking, seal and partial execution: seconds, and the share that is saved.

    Example: echo '{"call":"a","units":[{"tokens":40,"work_s":0.5},{"tokens":40,"work_s":0.5}]}' | llmsys tool-serve
    replay --rate 20,40,80
    """
    from llmsys.tool_serve.replay import mean_saving, policies_of, rates_of, read_trace
    from llmsys.tool_serve.replay import replay as replayed

    policies, rates = policies_of(policy), rates_of(rate)
    turns = read_trace(trace, rates, on_error=on_error, on_skip=lambda fault: note(f"skipped: {fault}"))
    found = []
    with records_out() as out:
        for turn in replayed(turns, concurrency=concurrency):
            found.append(turn)
            out.write(turn.record(policies))
    saved = mean_saving(found)
    rows = [{"policy": name, "saves of blocking": f"{share:.1%}"} for name, share in saved.items() if name in policies]
    if found and rows:
        table(rows, title=f"{len(found)} turns", stderr=True)
    if plot is not None:
        _draw(found, plot)


def _draw(found: "list[ReplayedTurn]", path: Path) -> None:
    """Saved share of each turn, turns in the order of their work over their decoding."""
    from llmsys.cli._plot import Figure, Line, draw

    placed = sorted(((one.work_s / one.decode_s, one) for one in found if one.decode_s), key=lambda placed: placed[0])
    ratios = [ratio for ratio, _ in placed]
    lines = [
        Line("seal", ratios, [one.seal_saves for _, one in placed]),
        Line("partial", ratios, [one.partial_saves for _, one in placed]),
    ]
    draw(Figure("What starting early saves", "tool work over decoding", "share of blocking", lines), path)
