"""`llmsys fair-queue audit`: an event log in, a verdict out."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from llmsys.cli._options import Json, Plot, Quiet, one_of
from llmsys.cli._render import note, report, table

__all__ = ["audit"]


def audit(
    log: Annotated[str, typer.Argument(metavar="LOG", help="Events: JSON Lines, .gz and .zst too; - is stdin.")] = "-",
    *,
    bound: Annotated[
        str,
        typer.Option(
            "--bound", help="log: what the log itself proves; paper: U from memory.", callback=one_of("log", "paper")
        ),
    ] = "log",
    wp: Annotated[
        float | None, typer.Option("--wp", min=0.0, help="Cost of an input token; default: the log's.")
    ] = None,
    wq: Annotated[
        float | None, typer.Option("--wq", min=0.0, help="Cost of an output token; default: the log's.")
    ] = None,
    replica: Annotated[
        int | None, typer.Option("--replica", min=0, help="Judge the queue of this replica, counted from 0.")
    ] = None,
    plot: Plot = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure how fairly tenants were served against the theory's bounds: exit 0 if every bound holds, else 1.

    Reads what simulate, gateway and the engine write. Example: llmsys fair-queue audit events.jsonl --json
    """
    from llmsys.fair_queue.audit import check_file

    if plot and log == "-":
        raise typer.BadParameter("--plot reads the log a second time; give a file in place of -")
    verdict = check_file(log, wp=wp, wq=wq, bound=bound, replica=replica)
    for warning in verdict.warnings:
        note(f"warning: {warning}")
    summary = asdict(verdict)
    if not json:
        table(_tenant_rows(summary), title="tenants (cost units, seconds)", stderr=True)
        note(_constants(summary))
    report(summary, _check_rows(summary), title=f"policy {verdict.policy or 'unknown'}", json=json)
    if plot:
        _draw_service(log, plot, wp=wp, wq=wq, replica=replica)
    if not verdict.holds:
        raise typer.Exit(1)


def _draw_service(log: str, path: Path, *, wp: float | None, wq: float | None, replica: int | None) -> None:
    from llmsys.cli._plot import Figure, Line, draw
    from llmsys.fair_queue.audit import service_over_time

    lines = [
        Line(name, times.tolist(), service.tolist())
        for name, (times, service) in service_over_time(log, wp=wp, wq=wq, replica=replica).items()
    ]
    draw(Figure("service per tenant", "time in s", "accumulated service in cost units per weight", lines), path)


def _tenant_rows(summary: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "tenant": name,
            "requests": one["requests"],
            "service": round(one["service"]),
            "demand": round(one["demand"]),
            "share %": round(100 * one["share"], 1),
            "queued s": round(one["backlogged_s"], 1),
            "ttft p50/95/99": _levels(one["ttft_s"]),
            "latency p50/95/99": _levels(one["latency_s"]),
            "max wait": round(one["longest_wait_s"], 1),
        }
        for name, one in summary["tenants"].items()
    ]


def _levels(seconds: tuple[float | None, ...]) -> str:
    return "/".join("-" if second is None else f"{second:.1f}" for second in seconds)


def _check_rows(summary: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "statement": one["statement"],
            "worst": round(one["worst"]),
            "bound": round(one["bound"]),
            "slack": round(one["bound"] - one["worst"]),
            "tenants": ", ".join(one["tenants"]) or "-",
            "seconds": "-" if one["interval"] is None else f"{one['interval'][0]:.1f}-{one['interval'][1]:.1f}",
            "holds": one["holds"],
        }
        for one in summary["checks"]
    ]


def _constants(summary: dict[str, Any]) -> str:
    """One line: the constants and what they assume, idle time and Jain's index."""
    known = [f"U_log {summary['U_log']:,.0f} (set at {summary['U_log_at_s']:.3f} s)"]
    if summary["U"] is not None:
        condition = (
            "applies" if summary["reserve"] == "sum" else f"needs reserve=sum, not {summary['reserve'] or 'unknown'}"
        )
        known.append(f"U {summary['U']:,.0f}, U* {summary['U_star']:,.0f} ({condition})")
    if summary["tolerance"]:
        known.append(f"tolerance {summary['tolerance']:,.0f} for coarse records")
    if summary["empirical"]:
        known.append("bound is empirical for this policy, not proved")
    known.append(f"idle with work waiting: {summary['idle_violations']} times, {summary['idle_s']:.3f} s")
    return "; ".join([*known, f"Jain's index {summary['jain']:.4f}"])
