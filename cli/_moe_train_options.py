"""Options that several verbs of `llmsys moe-train` take, or that would crowd one verb, defined once."""

from pathlib import Path
from typing import Annotated

import typer

from llmsys.cli._options import one_of

__all__ = [
    "Add",
    "Compare",
    "Counts",
    "Domains",
    "FromPlan",
    "Lost",
    "MinReplicas",
    "Mtbf",
    "Nodes",
    "Placement",
    "Repair",
    "Slots",
    "Split",
]

Nodes = Annotated[int | None, typer.Option("--nodes", min=1, help="Living nodes, after --lost and --add.")]
Slots = Annotated[int, typer.Option("--slots", min=1, help="Experts per node and layer.")]
MinReplicas = Annotated[
    int, typer.Option("--min-replicas", min=1, help="Least replicas of an expert (f); lowered where slots are short.")
]
Placement = Annotated[
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
Mtbf = Annotated[str, typer.Option("--mtbf", help="Mean time between failures of one node.")]
Repair = Annotated[str, typer.Option("--repair", help="Time in which several failures count as one.")]
Counts = Annotated[
    str | None,
    typer.Option("--k", metavar="K,K", help="Failures to be judged by, in equal weight; default by --mtbf."),
]
Domains = Annotated[
    Path | None, typer.Option("--domains", metavar="F", help="JSON object from node to the rack that fails as one.")
]
FromPlan = Annotated[
    str | None, typer.Option("--from", metavar="PLAN", help="The plan that runs now: what `plan` printed.")
]
Lost = Annotated[str | None, typer.Option("--lost", metavar="N,N", help="Nodes of that plan that died.")]
Add = Annotated[int, typer.Option("--add", min=0, help="Nodes that joined.")]
Compare = Annotated[bool, typer.Option("--compare", help="Show every placement's chances and balance.")]
