"""Verbs of `llmsys moe-train` that train nothing: plan."""

from pathlib import Path
from typing import Annotated

import typer

from llmsys.cli._options import Json, OnError, Quiet, Seed, one_of
from llmsys.cli._render import note, table
from llmsys.cli._streams import records_out

__all__ = ["VERBS"]

Method = Annotated[
    str,
    typer.Option(
        "--placement",
        help="Where replicas go: best (corrected MRO), mro (the paper's, to the letter), spread, compact, or eplb "
        "(a load balancer's, a baseline).",
        callback=one_of("best", "mro", "spread", "compact", "eplb"),
    ),
]
Split = Annotated[
    str,
    typer.Option(
        "--split",
        help="Tokens of an expert per replica: lp (shares that idle the busiest node) or equal.",
        callback=one_of("lp", "equal"),
    ),
]


def plan(
    loads: Annotated[str, typer.Argument(metavar="LOADS", help='Lines {"layer","load","state_mb"}; - is stdin.')] = "-",
    *,
    nodes: Annotated[int | None, typer.Option("--nodes", min=1, help="Living nodes, after --lost and --add.")] = None,
    slots: Annotated[int, typer.Option("--slots", min=1, help="Experts per node and layer.")] = 6,
    min_replicas: Annotated[
        int,
        typer.Option("--min-replicas", min=1, help="Least replicas of an expert (f); lowered where slots are short."),
    ] = 2,
    placement: Method = "best",
    split: Split = "lp",
    mtbf: Annotated[str, typer.Option("--mtbf", help="Mean time between failures of one node.")] = "6h",
    repair: Annotated[str, typer.Option("--repair", help="Time in which several failures count as one.")] = "60s",
    k: Annotated[
        str | None,
        typer.Option("--k", metavar="K,K", help="Failures to be judged by, in equal weight; default by --mtbf."),
    ] = None,
    domains: Annotated[
        Path | None, typer.Option("--domains", metavar="F", help="JSON object from node to the rack that fails as one.")
    ] = None,
    from_plan: Annotated[
        str | None, typer.Option("--from", metavar="PLAN", help="The plan that runs now: what `plan` printed.")
    ] = None,
    lost: Annotated[str | None, typer.Option("--lost", metavar="N,N", help="Nodes of that plan that died.")] = None,
    add: Annotated[int, typer.Option("--add", min=0, help="Nodes that joined.")] = 0,
    compare: Annotated[bool, typer.Option("--compare", help="Show every placement's chances and balance.")] = False,
    on_error: OnError = "fail",
    seed: Seed = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Print which node holds which expert, the chance of surviving k failures, and the moves from an old plan.

    Example: llmsys moe-train plan loads.jsonl --nodes 10 --slots 6 --compare
    """
    from llmsys.moe_train.comparison import compare_methods, comparison_table, method_row
    from llmsys.moe_train.durations import seconds_of
    from llmsys.moe_train.loads import read_loads
    from llmsys.moe_train.plan_records import plan_records
    from llmsys.moe_train.plan_session import PlanRequest, make_plan, parse_numbers

    given = read_loads(loads, on_error=on_error, on_skip=lambda fault: note(f"skipped: {fault}"))
    request = PlanRequest(
        slots,
        nodes,
        min_replicas,
        placement,
        split,
        seconds_of(mtbf, "--mtbf"),
        seconds_of(repair, "--repair"),
        parse_numbers(k, "--k"),
        domains,
        from_plan,
        parse_numbers(lost, "--lost"),
        add,
    )
    found = make_plan(given, request)
    for warning in found.warnings:
        note(f"warning: {warning}")
    with records_out() as out:
        for record in plan_records(
            found.plan, found.world, found.counts, seconds=found.seconds, seed=seed, migration=found.migration
        ):
            out.write(record)
        rows = [method_row(placement, found.plan, found.world, found.counts, seed=seed)]
        if compare:
            rows = compare_methods(
                given.loads, slots, found.world, found.counts, f=min_replicas, split=split, seed=seed
            )
        for row in rows if compare and json else ():
            out.write({"event": "method", **row.record()})
    if not json:
        table(comparison_table(rows), title="P(all layers survive k failures)", stderr=True)


VERBS = (plan,)
