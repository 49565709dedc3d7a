"""`llmsys serve-lora serve`: options in, a server until a signal."""

import os
from pathlib import Path
from typing import Annotated

import typer

from llmsys.cli._options import Device, DType, Quiet, Seed, Threads
from llmsys.cli._serve_lora_fleet import (
    Cluster,
    Consolidate,
    KeepAlive,
    MaxMoves,
    Placement,
    Replicas,
    ReplicaTimeout,
    Standby,
)
from llmsys.cli._streams import records_out

__all__ = ["serve"]

Model = Annotated[str, typer.Argument(metavar="[MODEL]", help="Base model: a directory, a .gguf file, or smollm2.")]
Adapters = Annotated[
    Path | None,
    typer.Option("--adapters", metavar="DIR", help="Each sub-directory is an adapter; looked at with every request."),
]
Adapter = Annotated[
    list[str] | None, typer.Option("--adapter", metavar="NAME=PATH", help="One more adapter; repeat for more.")
]
Host = Annotated[str, typer.Option("--host", help="Address to listen at.")]
Port = Annotated[int, typer.Option("--port", min=0, max=65535, help="Port to listen at; 0 takes a free one.")]
Uds = Annotated[Path | None, typer.Option("--uds", metavar="PATH", help="Listen at a Unix socket instead.")]
Tenants = Annotated[
    Path | None,
    typer.Option(
        "--tenants",
        metavar="FILE",
        help="TOML: [tenant.NAME] with keys, adapters, weight, rpm. LLMSYS_API_KEY is the operator's key.",
    ),
]
MaxSequences = Annotated[int, typer.Option("--max-sequences", min=1, help="Sequences that run at once.")]
MaxBatchTokens = Annotated[
    int, typer.Option("--max-batch-tokens", min=0, help="Tokens of one step; 0 is 256 on a CPU, 512 elsewhere.")
]
KvMemory = Annotated[
    float, typer.Option("--kv-memory-gb", min=0.0, help="Memory of keys and values; 0 is a quarter of what is free.")
]
HostAdapters = Annotated[
    float, typer.Option("--host-adapters-gb", min=0.0, help="Memory of adapters that are kept beside the slots.")
]
Pin = Annotated[list[str] | None, typer.Option("--pin", metavar="NAME", help="Adapter that keeps its slot; repeat.")]
LoraSlots = Annotated[int, typer.Option("--lora-slots", min=1, help="Adapters in memory at once.")]
LoraRankMax = Annotated[int, typer.Option("--lora-rank-max", min=1, max=256, help="Largest rank taken.")]
PolicySpec = Annotated[str, typer.Option("--policy", help="Who is admitted next, as in `llmsys fair-queue`.")]
MaxQueue = Annotated[int, typer.Option("--max-queue", min=1, help="Requests that may wait; more get 429.")]
Drain = Annotated[float, typer.Option("--drain-s", min=0.0, help="Seconds for running requests after SIGTERM.")]
Runtime = Annotated[
    bool, typer.Option("--allow-runtime-adapters", help="Let requests load and unload adapters of --adapters.")
]
Isolate = Annotated[
    bool, typer.Option("--isolate-prefix", help="Tenants share no cached prefixes, so none can probe for another's.")
]
Insecure = Annotated[bool, typer.Option("--insecure", help="Listen beyond this machine without keys.")]
LedgerFile = Annotated[
    Path | None, typer.Option("--ledger", metavar="FILE", help="Append what it costs, for `cost report`.")
]
Prices = Annotated[
    Path | None, typer.Option("--prices", metavar="FILE.toml", help="currency, device_per_hour, host_ram_gb_per_hour.")
]
CostHeader = Annotated[
    bool, typer.Option("--cost-header", help="Say in x-llmsys-cost what a whole answer's device time cost.")
]
MetricsTenants = Annotated[
    int, typer.Option("--metrics-tenants", min=0, help="Tenants with a label of their own; the rest are other.")
]
Prefix = Annotated[str, typer.Option("--metrics-prefix", help="Start of every metric's name; vllm: fits its boards.")]


def serve(
    model: Model = "smollm2",
    *,
    adapters: Adapters = None,
    adapter: Adapter = None,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    uds: Uds = None,
    tenants: Tenants = None,
    max_sequences: MaxSequences = 64,
    max_batch_tokens: MaxBatchTokens = 0,
    lora_slots: LoraSlots = 32,
    lora_rank_max: LoraRankMax = 64,
    kv_memory_gb: KvMemory = 0.0,
    host_adapters_gb: HostAdapters = 2.0,
    pin: Pin = None,
    policy: PolicySpec = "vtc",
    max_queue: MaxQueue = 1024,
    drain_s: Drain = 30.0,
    allow_runtime_adapters: Runtime = False,
    isolate_prefix: Isolate = False,
    insecure: Insecure = False,
    replicas: Replicas = None,
    cluster: Cluster = "local",
    placement: Placement = "punica",
    keep_alive: KeepAlive = "ski-rental",
    consolidate_s: Consolidate = 10.0,
    max_moves: MaxMoves = 3,
    replica_timeout_s: ReplicaTimeout = 30.0,
    standby: Standby = 0,
    ledger: LedgerFile = None,
    prices: Prices = None,
    cost_header: CostHeader = False,
    metrics_prefix: Prefix = "llmsys:",
    metrics_tenants: MetricsTenants = 200,
    device: Device = "auto",
    dtype: DType = "auto",
    seed: Seed = 0,
    threads: Threads = 0,
    quiet: Quiet = False,
) -> None:
    """Serve the OpenAI API until SIGTERM or Ctrl-C: a request's model names the base model or an adapter.

    llmsys serve-lora serve --adapters ./adapters --replicas 0:4 --cluster ray
    """
    from llmsys.fair_queue.policy import engine_policy
    from llmsys.serve_lora import batch_files, fleet, read_prices, server

    table = server.tenant_table(tenants, os.environ.get("LLMSYS_API_KEY"))
    sizes = (max_sequences, max_batch_tokens or None, lora_slots, lora_rank_max, max_queue)
    memory = (round(kv_memory_gb * 1e9) or None, round(host_adapters_gb * 1e9))
    engine = server.EngineSettings(device, dtype, seed, *sizes, *memory, engine_policy(policy, table.weights()))
    access = server.Access(table, allow_runtime_adapters, isolate_prefix, insecure)
    records = server.Recording(ledger, read_prices(prices), metrics_prefix, metrics_tenants, cost_header)
    address, named = server.Address(host, port, uds), batch_files.adapter_paths(None, adapter or [])
    limits = {"max_moves": max_moves, "standby": standby, "places": max_sequences, "threads": threads}
    many = fleet.fleet_settings(
        replicas, cluster, placement, keep_alive,
        consolidate_s=consolidate_s, silence_s=replica_timeout_s, **limits,
    )  # fmt: skip
    listed = (model, address, adapters, named, pin or (), engine, access, records, drain_s, many)
    with records_out(flush_each=True) as out:
        server.serve(server.ServerSettings(*listed), threads=threads, ready=out.write)
