"""Verbs of `llmsys moe-train` that train nothing: plan."""

from dataclasses import replace
from typing import Annotated

import typer

from llmsys.cli import _moe_train_options as opt
from llmsys.cli._options import Json, OnError, Quiet, Seed
from llmsys.cli._render import note, table
from llmsys.cli._streams import records_out

__all__ = ["VERBS"]


def plan(
    loads: Annotated[str, typer.Argument(metavar="LOADS", help='Lines {"layer","load","state_mb"}; - is stdin.')] = "-",
    *,
    nodes: opt.Nodes = None,
    slots: opt.Slots = 6,
    min_replicas: opt.MinReplicas = 2,
    placement: opt.Placement = "best",
    split: opt.Split = "lp",
    mtbf: opt.Mtbf = "6h",
    repair: opt.Repair = "60s",
    k: opt.Counts = None,
    domains: opt.Domains = None,
    from_plan: opt.FromPlan = None,
    lost: opt.Lost = None,
    add: opt.Add = 0,
    compare: opt.Compare = False,
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
    times = seconds_of(mtbf, "--mtbf"), seconds_of(repair, "--repair")
    numbers = parse_numbers(k, "--k")
    request = PlanRequest(slots, nodes, min_replicas, placement, split, *times, numbers, domains, from_plan)
    request = replace(request, lost=parse_numbers(lost, "--lost"), add=add)
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
