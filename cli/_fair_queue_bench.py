"""`llmsys fair-queue bench`: our parts beside their peers, in one run."""

from dataclasses import asdict
from typing import Annotated, Any

import typer

from llmsys.cli._options import Json, Quiet
from llmsys.cli._render import note, progress, report

__all__ = ["app"]

app = typer.Typer(help="Measure our parts beside their peers, in one run.", rich_markup_mode=None, no_args_is_help=True)


@app.callback()
def choose() -> None:
    """Measure our parts beside their peers, in one run."""


@app.command()
def gateway(
    *,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Turns of every proxy; medians are compared.")] = 5,
    requests: Annotated[int, typer.Option("--requests", min=64, help="Plain requests per turn.")] = 4096,
    peer: Annotated[
        list[str] | None,
        typer.Option("--peer", help="nginx, sglang-router or litellm; may repeat; default: all that are here."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure the gateway beside other proxies on PATH: CPU time per request and per chunk, time to the first byte.

    All stand in front of one backend and take turns. Example: llmsys fair-queue bench gateway --peer nginx --rounds 3
    """
    from llmsys.errors import UsageFault
    from llmsys.fair_queue.gateway.bench import run_gateway_bench

    with progress("turns") as advance:
        try:
            found = run_gateway_bench(rounds=rounds, requests=requests, peers=peer, on_done=advance)
        except ValueError as error:
            raise UsageFault(str(error)) from error
    for warning in found.warnings:
        note(f"warning: {warning}")
    title = f"CPU time: {found.requests} requests and {found.streams} streams of {found.chunks} chunks per turn"
    report(asdict(found), [_row(asdict(one)) for one in found.proxies], title=title, json=json)


def _row(cost: dict[str, Any]) -> dict[str, Any]:
    return {
        "proxy": cost["proxy"],
        "us/request": _rounded(cost["us_request"]),
        "ours/its": _rounded(cost["request_ratio"], 2),
        "us/chunk": _rounded(cost["us_chunk"]),
        "ours/its chunk": _rounded(cost["chunk_ratio"], 2),
        "first byte p50/p99 ms": _pair(cost["first_byte_p50_ms"], cost["first_byte_p99_ms"]),
        "ours adds ms": _pair(cost["added_p50_ms"], cost["added_p99_ms"]),
        "failed": cost["failed"],
        "absent": cost["absent"] or "-",
    }


def _rounded(value: float | None, places: int = 1) -> float | None:
    return None if value is None else round(value, places)


def _pair(low: float | None, high: float | None) -> str:
    return "-" if low is None or high is None else f"{low:.2f}/{high:.2f}"
