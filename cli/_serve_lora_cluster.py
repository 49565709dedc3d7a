"""`llmsys serve-lora simulate`, `plan` and `calibrate`: options in, `llmsys.serve_lora.cluster` called, reports out."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmsys.cli._options import ChromeTrace, Device, DType, Json, OnError, Plot, Quiet, Seed, Threads, one_of
from llmsys.cli._render import note, progress, report

if TYPE_CHECKING:
    from llmsys.artifacts import TraceRecord
    from llmsys.cli._plot import Figure
    from llmsys.serve_lora.cluster import ClusterReport

__all__ = ["calibrate", "plan", "simulate"]

Trace = Annotated[str, typer.Argument(metavar="TRACE", help="A trace: JSON Lines, .gz and .zst too; - is stdin.")]
ProfileFile = Annotated[
    Path | None, typer.Option("--profile", metavar="FILE", help="What `serve-lora calibrate` measured.")
]
Popularity = Annotated[
    str,
    typer.Option(
        "--popularity",
        help="Adapters: trace, distinct, uniform, identical, geometric:X (Punica's skewed: 1.5), zipf:X.",
    ),
]
PerTenant = Annotated[
    int, typer.Option("--adapters-per-tenant", min=1, help="Adapters of a tenant, where the trace names none.")
]
KeepAlive = Annotated[
    str, typer.Option("--keep-alive", help="Idle replicas stay: ski-rental (as long as a start costs), SECONDS or inf.")
]
Consolidate = Annotated[
    float, typer.Option("--consolidate-s", min=0.001, help="Seconds between attempts to empty the lightest replica.")
]
MaxMoves = Annotated[int, typer.Option("--max-moves", min=0, help="Moves of one request by consolidation.")]
Slo = Annotated[float, typer.Option("--slo-ttft-s", min=0.0, help="Limit of the 99th percentile to the first token.")]
Idle = Annotated[
    str,
    typer.Option(
        "--idle",
        help="Who pays idle time and starts: owner (served last), spread (all by use) or platform.",
        callback=one_of("owner", "spread", "platform"),
    ),
]
Prices = Annotated[
    Path | None, typer.Option("--prices", metavar="FILE.toml", help="currency, device_per_hour, host_ram_gb_per_hour.")
]


def simulate(
    trace: Trace,
    *,
    policy: Annotated[
        str, typer.Option("--policy", help="punica, affinity, bounded, least-loaded, round-robin or dedicated.")
    ] = "punica",
    gpus: Annotated[int, typer.Option("--gpus", min=1, help="Replicas at most.")] = 4,
    profile: ProfileFile = None,
    popularity: Popularity = "trace",
    adapters_per_tenant: PerTenant = 1,
    keep_alive: KeepAlive = "ski-rental",
    consolidate_s: Consolidate = 10.0,
    max_moves: MaxMoves = 3,
    slo_ttft_s: Slo = 2.0,
    idle: Idle = "owner",
    prices: Prices = None,
    chrome_trace: ChromeTrace = None,
    seed: Seed = 0,
    on_error: OnError = "fail",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run a trace through a simulated cluster: what each tenant waits and pays, idle time and cold starts included.

    llmsys serve-lora simulate trace.jsonl --gpus 4 --policy punica --popularity geometric:1.5
    """
    from llmsys.artifacts import write_chrome_trace
    from llmsys.serve_lora import cluster, read_prices

    settings = cluster.ClusterSettings(gpus, 0.0, consolidate_s, max_moves)
    found, outcome = cluster.simulate_cluster(
        _read(trace, popularity, adapters_per_tenant, seed, on_error),
        known := cluster.read_profile(profile),
        cluster.with_keep_alive(settings, keep_alive, known),
        policy=policy,
        slo_ttft_s=slo_ttft_s,
        idle=idle,
        prices=read_prices(prices),
    )
    report(found, [tenant.as_row() for tenant in found.tenants], json=json)
    note(found.summary_line())
    if chrome_trace:
        write_chrome_trace(chrome_trace, cluster.timeline(outcome))


def plan(
    trace: Trace,
    *,
    policy: Annotated[str, typer.Option("--policy", help="Policies to compare, comma-separated.")] = "punica,affinity",
    gpus: Annotated[str, typer.Option("--gpus", help="Limits of replicas: 1-16, or 1,2,4.")] = "1-8",
    profile: ProfileFile = None,
    popularity: Popularity = "trace",
    adapters_per_tenant: PerTenant = 1,
    keep_alive: KeepAlive = "ski-rental",
    consolidate_s: Consolidate = 10.0,
    max_moves: MaxMoves = 3,
    slo_ttft_s: Slo = 2.0,
    idle: Idle = "owner",
    prices: Prices = None,
    plot: Plot = None,
    seed: Seed = 0,
    on_error: OnError = "fail",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find the cheapest cluster that is fast enough for a trace; exit 1 if none is.

    llmsys serve-lora plan trace.jsonl --gpus 1-16 --policy punica,affinity,dedicated --slo-ttft-s 2 --plot cost.svg
    """
    from llmsys.cli._plot import draw
    from llmsys.errors import LlmsysError
    from llmsys.serve_lora import cluster, read_prices

    limits = cluster.parse_limits(gpus)
    settings = cluster.ClusterSettings(max(limits), 0.0, consolidate_s, max_moves)
    reports, best = cluster.plan_cluster(
        _read(trace, popularity, adapters_per_tenant, seed, on_error),
        known := cluster.read_profile(profile),
        cluster.with_keep_alive(settings, keep_alive, known),
        policies=policy.split(","),
        gpus=limits,
        slo_ttft_s=slo_ttft_s,
        idle=idle,
        prices=read_prices(prices),
    )
    report({"best": best, "runs": reports}, [one.as_row() for one in reports], json=json)
    if plot:
        draw(_figure(reports), plot)
    if best is None:
        raise LlmsysError(f"no cluster keeps the 99th percentile within {slo_ttft_s:g} s; give more --gpus")
    note(f"cheapest that is fast enough: {best.policy}, {best.summary_line()}")


def calibrate(
    destination: Annotated[Path, typer.Argument(metavar="FILE", help="Profile to write, for `plan` and `simulate`.")],
    *,
    model: Annotated[
        str, typer.Option("--model", metavar="MODEL", help="Base model: a directory, a .gguf file, or smollm2.")
    ] = "smollm2",
    adapters: Annotated[
        Path | None, typer.Option("--adapters", metavar="DIR", help="Adapters to measure with; else the base alone.")
    ] = None,
    max_batch: Annotated[int, typer.Option("--max-batch", min=1, max=64, help="Largest batch, also in plans.")] = 32,
    device: Device = "auto",
    dtype: DType = "auto",
    threads: Threads = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure the engine's steps on this machine and fit the step model that plans and ledgers use.

    llmsys serve-lora calibrate here.json --adapters ./adapters
    """
    from llmsys import gpu
    from llmsys.engine.config import EngineConfig
    from llmsys.serve_lora.adapter_files import find_adapters
    from llmsys.serve_lora.cluster import write_profile
    from llmsys.serve_lora.cluster.calibration import calibrate as measure

    gpu.set_threads(threads)
    with progress("batch sizes") as advance:
        profile, fit = measure(
            model,
            find_adapters(adapters) if adapters else {},
            config=EngineConfig(device=device, dtype=dtype, max_sequences=max_batch, prefix_cache=False),
            max_batch=max_batch,
            advance=advance,
        )
    write_profile(destination, profile)
    report(
        {"profile": profile, "fit": fit},
        [{"coefficient": k, "ms": v * 1e3} for k, v in profile.step.items()],
        json=json,
    )
    note(f"{fit.samples} steps; relative error {fit.error_p50:.1%} in the median, {fit.error_p90:.1%} at 90 %")


def _read(trace: str, popularity: str, per_tenant: int, seed: int, on_error: str) -> "list[TraceRecord]":
    from llmsys.artifacts import read_trace
    from llmsys.serve_lora.cluster import assign_adapters

    records = list(read_trace(trace, on_error=on_error, on_skip=lambda fault: note(f"skipped: {fault}")))
    return assign_adapters(records, popularity, seed=seed, per_tenant=per_tenant)


def _figure(reports: "list[ClusterReport]") -> "Figure":
    """Cost over the limit of replicas, a line per policy."""
    from llmsys.cli._plot import Figure, Line

    names = list(dict.fromkeys(one.policy for one in reports))
    own = {name: [one for one in reports if one.policy == name] for name in names}
    lines = [Line(name, [one.gpus for one in own[name]], [one.cost for one in own[name]]) for name in names]
    return Figure("cost of a trace", "replicas at most", f"cost ({reports[0].currency})", lines)
