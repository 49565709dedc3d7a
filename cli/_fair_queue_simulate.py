"""`llmsys fair-queue simulate`: a trace and policies in, events, requests or a comparison out; and `calibrate`."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from llmsys.cli._options import Json, OnError, Quiet, one_of
from llmsys.cli._render import note, progress, report
from llmsys.cli._streams import records_out

__all__ = ["app"]


class _TraceIsTheDefault(TyperGroup):
    """`simulate TRACE` is `simulate run TRACE`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401
        """Put the verb in front where the first word is none."""
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help"):
            args = ["run", *args]
        return list(super().parse_args(ctx, args))


app = typer.Typer(
    cls=_TraceIsTheDefault,
    help="Simulate a server that batches requests of many tenants: simulate TRACE, or simulate calibrate LOG...",
    rich_markup_mode=None,
    no_args_is_help=True,
)

Policy = Annotated[str, typer.Option("--policy", help="NAME[:key=value,...]; several by ',' or, with keys, by ';'.")]
Weight = Annotated[
    list[str] | None,
    typer.Option("--weight", metavar="TENANT=W", help="Weight of a tenant, 1 if not given; may repeat."),
]
Hardware = Annotated[str, typer.Option("--hardware", help="Step model: a10g-llama2-7b, or a TOML file of calibrate.")]
Memory = Annotated[int, typer.Option("--memory", min=1, help="Tokens that the running batch may hold.")]
MaxBatch = Annotated[int, typer.Option("--max-batch", min=1, help="Requests that may run at once.")]
MaxPrefill = Annotated[int, typer.Option("--max-prefill", min=1, help="Prompt tokens of one prefill.")]
AdmitEvery = Annotated[int, typer.Option("--admit-every", min=1, help="Decode steps between admissions.")]
Reserve = Annotated[
    str,
    typer.Option(
        "--reserve",
        help="Memory an admission needs: sum of final lengths, peak over the order of endings, or paged (preempts).",
        callback=one_of("sum", "peak", "paged"),
    ),
]
ChunkedPrefill = Annotated[
    int, typer.Option("--chunked-prefill", min=0, help="Prompt tokens that join a decode step; 0: they stall it.")
]
PrefixCache = Annotated[bool, typer.Option("--prefix-cache", help="Keep blocks of prompts, by the trace's prefix ids.")]
BlockTokens = Annotated[int, typer.Option("--block-tokens", min=1, help="Tokens of a prefix's block.")]
Replicas = Annotated[int, typer.Option("--replicas", min=1, help="Machines, each with its own queue.")]
Route = Annotated[
    str,
    typer.Option(
        "--route",
        help="Replica of an arrival: least (fewest requests), hash (of the tenant) or d2lpm (locality in credit).",
        callback=one_of("least", "hash", "d2lpm"),
    ),
]


@app.command()
def run(
    trace: Annotated[str, typer.Argument(metavar="TRACE", help="A trace: JSON Lines, .gz and .zst too; - is stdin.")],
    *,
    policy: Policy = "vtc",
    weight: Weight = None,
    hardware: Hardware = "a10g-llama2-7b",
    memory: Memory = 10_000,
    max_batch: MaxBatch = 1000,
    max_prefill: MaxPrefill = 3072,
    admit_every: AdmitEvery = 10,
    reserve: Reserve = "sum",
    chunked_prefill: ChunkedPrefill = 0,
    prefix_cache: PrefixCache = False,
    block_tokens: BlockTokens = 512,
    replicas: Replicas = 1,
    route: Route = "least",
    per_request: Annotated[
        bool, typer.Option("--per-request", help="One line per request in place of events.")
    ] = False,
    summary: Annotated[bool, typer.Option("--summary", help="One line per policy, without the audit.")] = False,
    compare: Annotated[bool, typer.Option("--compare", help="One line per policy, its events audited.")] = False,
    reorder_s: Annotated[float, typer.Option("--reorder-s", min=0.0, help="Seconds that arrivals may be late.")] = 0.0,
    json: Json = False,
    on_error: OnError = "fail",
    quiet: Quiet = False,
) -> None:
    """Simulate a trace: writes the events, as the audit reads them, or with the options below something shorter.

    Example: llmsys fair-queue simulate arena27.jsonl --policy fcfs,vtc --reserve peak --compare
    """
    from llmsys.artifacts import read_trace
    from llmsys.fair_queue import sim
    from llmsys.fair_queue.policy import parse_weights, split_specs

    if per_request + summary + compare > 1:
        raise typer.BadParameter("--per-request, --summary and --compare exclude each other")
    specs = split_specs(policy)
    if len(specs) != 1 and not (summary or compare):
        raise typer.BadParameter(f"{len(specs)} policies; several need --compare or --summary")
    work = sim.workload_of(
        read_trace(trace, on_error=on_error, on_skip=lambda fault: note(f"skipped: {fault}"), reorder_s=reorder_s)
    )
    basic = sim.Machine(memory, max_batch, max_prefill, admit_every, reserve)
    fleet = replace(basic, chunk=chunked_prefill, replicas=replicas, route=route)
    machine = replace(fleet, prefix_cache=prefix_cache, block_tokens=block_tokens)
    model, weights = sim.load_hardware(hardware), parse_weights(weight)
    if summary or compare:
        _compare(work, specs, model, machine, weights, audited=compare, json=json)
        return
    with records_out() as out:
        if per_request:
            for line in sim.run(work, specs[0], model, machine=machine, weights=weights).per_request():
                out.write(line)
        else:
            sim.run(work, specs[0], model, machine=machine, weights=weights, on_event=out.write)


def _compare(
    work: Any,  # noqa: ANN401
    specs: list[str],
    model: Any,  # noqa: ANN401
    machine: Any,  # noqa: ANN401
    weights: dict[str, float],
    *,
    audited: bool,
    json: bool,
) -> None:
    from llmsys.fair_queue import sim

    rows = []
    with progress("policies", len(specs)) as advance:
        for spec in specs:
            rows.append(sim.summary_of(work, spec, model, machine=machine, weights=weights, audited=audited))
            advance(1)
    report([asdict(row) for row in rows], [_row(row) for row in rows], json=json)


def _row(row: Any) -> dict[str, Any]:  # noqa: ANN401
    """The table's line: served and refused next to fairness, always."""
    line = {
        "policy": row.policy,
        "served": row.served,
        "refused": row.refused,
        "tokens/s": round(row.tokens_per_s),
        "maxdiff": round(row.max_diff, 1),
        "avgdiff": round(row.avg_diff, 1),
        "jain": round(row.jain, 3),
        "ttft p50/p99": "-" if row.ttft_p50_s is None else f"{row.ttft_p50_s:.1f}/{row.ttft_p99_s:.1f}",
    }
    if row.holds is not None:
        line |= {"bound 2U": round(row.bound_2u), "worst gap": round(row.worst_gap), "holds": row.holds}
    return line


@app.command()
def calibrate(
    logs: Annotated[list[str], typer.Argument(metavar="LOG...", help="Measured runs to fit to.")],
    *,
    out: Annotated[Path, typer.Option("--out", metavar="FILE.toml", help="Where the step model goes.")],
    holdout: Annotated[
        list[str] | None, typer.Option("--holdout", help="A run to predict, not to fit; may repeat.")
    ] = None,
    policy: Annotated[
        str | None, typer.Option("--policy", help="Policy of all runs; default: what their names say.")
    ] = None,
    memory: Memory = 10_000,
    max_batch: MaxBatch = 1000,
    max_prefill: MaxPrefill = 3072,
    admit_every: AdmitEvery = 10,
    reserve: Reserve = "peak",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fit the step model to measured runs and say how well it predicts those that it has not seen."""
    from llmsys.artifacts import replace_file
    from llmsys.fair_queue import sim

    machine = sim.Machine(memory, max_batch, max_prefill, admit_every, reserve)
    runs = [sim.read_run(log, policy=policy) for log in logs]
    unseen = [sim.read_run(log, policy=policy) for log in holdout or []]
    with progress("evaluations") as advance:
        model = sim.fit_hardware(runs, machine, on_evaluation=advance)
    with replace_file(out) as stream:
        stream.write(model.to_toml().encode())
    errors = [("fit", sim.compare_run(one, model, machine)) for one in runs]
    errors += [("holdout", sim.compare_run(one, model, machine)) for one in unseen]
    rows = [{"kind": kind, **asdict(error)} for kind, error in errors]
    report({"hardware": asdict(model), "errors": rows}, rows, title=f"simulated / measured - 1; wrote {out}", json=json)
