"""`llmsys serve-lora bench`: options in, `llmsys.serve_lora`'s benches called, reports out."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Protocol, TypeVar

import typer

from llmsys.cli._options import Json, Quiet, Seed, Threads, one_of
from llmsys.cli._render import note, progress, report

__all__ = ["bench"]


Engine = Annotated[
    bool, typer.Option("--engine", help="Decode speed of the engine, with fidelity and the machine's ceilings.")
]
Popularity = Annotated[
    str | None,
    typer.Option(
        "--popularity",
        help="Punica's closed loop: all, or some of distinct, uniform, identical, geometric:X (its skewed: 1.5), "
        "zipf:X.",
    ),
]
Replay = Annotated[
    str | None,
    typer.Option("--replay", metavar="TRACE", help="Calibrate, predict the trace by simulation, then run it live."),
]
Registered = Annotated[
    str | None,
    typer.Option("--registered", metavar="N,...", help="A Zipf load with so many adapters registered: 32,1000,2000."),
]
Adapters = Annotated[
    Path | None, typer.Option("--adapters", metavar="DIR", help="For --engine and --replay: adapters to mix.")
]
Model = Annotated[
    str, typer.Option("--model", metavar="MODEL", help="Base model: a directory, a .gguf file, or smollm2.")
]
Batch = Annotated[
    str, typer.Option("--batch", help="Sequences at once: sizes for --engine (1,8,32), one for --popularity (32).")
]
Tokens = Annotated[
    int, typer.Option("--tokens", min=0, help="Tokens: decoded per answer (0 is 32), or of a request (0 is 128).")
]
Requests = Annotated[int, typer.Option("--requests", min=1, help="For --popularity and --registered: requests.")]
Rank = Annotated[int, typer.Option("--rank", min=1, max=256, help="Rank of the adapters that are made for it.")]
Runs = Annotated[int, typer.Option("--runs", min=1, help="For --engine: runs of which the best counts.")]
Peers = Annotated[
    str,
    typer.Option("--peers", help="all, none, or some of transformers (--engine only), peft and llama.cpp."),
]
Kind = Annotated[
    str,
    typer.Option("--dtype", help="Of ours and of the peers.", callback=one_of("float32", "bfloat16", "float16")),
]


def bench(
    *,
    engine: Engine = False,
    popularity: Popularity = None,
    replay: Replay = None,
    registered: Registered = None,
    adapters: Adapters = None,
    model: Model = "smollm2",
    batch: Batch = "",
    tokens: Tokens = 0,
    requests: Requests = 64,
    rank: Rank = 16,
    runs: Runs = 2,
    peers: Peers = "all",
    dtype: Kind = "bfloat16",
    seed: Seed = 0,
    threads: Threads = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure ours beside its peers in one run: --engine for decoding, --popularity for many adapters under load.

    --replay measures the simulator: what it predicts of a trace beside what the engine does. --registered measures what
    many adapters cost, and whether another tenant's stream pauses for them.

    A decode speed counts with its fidelity: the share of answers identical to float32's, and the largest logit gap.

    llmsys serve-lora bench --engine --adapters ./adapters

    llmsys serve-lora bench --popularity distinct,identical --requests 32 --peers peft
    """
    from llmsys import gpu
    from llmsys.errors import UsageFault
    from llmsys.serve_lora.engine_bench import EngineBench, bench_plan
    from llmsys.serve_lora.popularity_bench import PopularityBench, popularity_plan, single_batch
    from llmsys.serve_lora.registered_bench import RegisteredBench, registered_plan

    if engine + sum(given is not None for given in (popularity, replay, registered)) != 1:
        raise UsageFault("give one of --engine, --popularity, --replay and --registered")
    gpu.set_threads(threads)
    if replay is not None:
        _replay(replay, model=model, adapters=adapters, batch=batch or "32", json=json)
        return
    if registered is not None:
        many = registered_plan(registered, model=model, batch=single_batch(batch or "32"))
        load = replace(many, requests=requests, tokens=tokens or many.tokens, rank=rank, dtype=dtype, seed=seed)
        _measure(RegisteredBench(load), json=json)
    elif popularity is not None:
        plan = popularity_plan(popularity, model=model, batch=batch or "32", peers=peers)
        limit = tokens or plan.limit
        loop = replace(plan, requests=requests, limit=limit, rank=rank, dtype=dtype, seed=seed)
        _measure(PopularityBench(loop), json=json)
    else:
        decoding = bench_plan(model=model, adapters=adapters, batch=batch or "1,8,32", peers=peers)
        _measure(EngineBench(replace(decoding, tokens=tokens or decoding.tokens, runs=runs, dtype=dtype)), json=json)


def _replay(trace: str, *, model: str, adapters: Path | None, batch: str, json: bool) -> None:
    from llmsys.artifacts import read_trace
    from llmsys.serve_lora.adapter_files import find_adapters
    from llmsys.serve_lora.cluster.replay import ReplayBench
    from llmsys.serve_lora.popularity_bench import single_batch

    found = find_adapters(adapters) if adapters is not None else {}
    measuring = ReplayBench(list(read_trace(trace)), model=model, adapters=found, batch=single_batch(batch))
    with progress("runs") as advance:
        runs = measuring.compare(lambda _: advance(1))
    report(runs.as_record(), [runs.predicted.as_row("predicted"), runs.live.as_row("live")], json=json)
    note(f"predicted throughput {runs.throughput_error:+.1%}, median wait {runs.ttft_error:+.1%} of what was measured")


class _Row(Protocol):
    def as_row(self) -> dict[str, str | int | float | None]: ...


R = TypeVar("R", bound=_Row)


class _Bench(Protocol[R]):
    def rows(self, on_row: Callable[[R], None]) -> list[R]: ...

    def as_record(self, rows: Sequence[R]) -> dict[str, object]: ...

    def remarks(self, rows: Sequence[R]) -> str: ...


def _measure(measuring: _Bench[R], *, json: bool) -> None:
    with progress("rows") as advance:
        rows = measuring.rows(lambda _: advance(1))
    report(measuring.as_record(rows), [row.as_row() for row in rows], json=json)
    note(measuring.remarks(rows))
