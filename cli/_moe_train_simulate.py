"""`llmsys moe-train simulate`: a trace and policies in, timelines and summaries out."""

from pathlib import Path
from typing import Annotated

import typer

from llmsys.cli._options import Json, Plot, Quiet, Seed, one_of
from llmsys.cli._render import note, progress, table
from llmsys.cli._streams import records_out

__all__ = ["VERBS"]

Trace = Annotated[
    Path | None,
    typer.Option("--trace", metavar="F", help="Who was there when: Bamboo's .csv, counts as .txt (GCP) or .json."),
]
Failures = Annotated[
    str | None, typer.Option("--mtbf", help="In place of a trace: mean time between failures of the whole cluster.")
]
Arrivals = Annotated[
    str,
    typer.Option(
        "--arrivals",
        help="Failures of --mtbf: fixed intervals or exponential ones.",
        callback=one_of("fixed", "exponential"),
    ),
]
ReplaceAfter = Annotated[
    str | None, typer.Option("--replace-after", help="Time until a new node replaces a failed one; default never.")
]
MostNodes = Annotated[int, typer.Option("--nodes", min=1, help="Nodes that work at once; more are spares.")]
Horizon = Annotated[
    str | None,
    typer.Option("--horizon", help="Simulated time; past the trace's end by block bootstrap. Default: trace, or 1d."),
]
Start = Annotated[str | None, typer.Option("--start", help="Where in the trace to begin; default its begin.")]
Victims = Annotated[
    str,
    typer.Option(
        "--victims",
        help="Who leaves where only counts are known: newest or random.",
        callback=one_of("newest", "random"),
    ),
]
Policies = Annotated[
    str,
    typer.Option(
        "--policies",
        help="all, or several by ',': ideal, lazarus, best, ds, ds-ft, tutel-ft, torchrun, torchft, oobleck-like, "
        "bamboo-like, gemini-like, moevement-like.",
    ),
]
Cost = Annotated[Path | None, typer.Option("--cost", metavar="F", help="JSON object with seconds of each operation.")]
Model = Annotated[
    str, typer.Option("--model", help="Shape: gpt-s, gpt-m or gpt-l.", callback=one_of("gpt-s", "gpt-m", "gpt-l"))
]
Loads = Annotated[
    str | None, typer.Option("--loads", metavar="F", help="Tokens per expert, as `plan` reads; default Zipf's law.")
]
Trials = Annotated[int, typer.Option("--trials", min=1, help="Runs with other draws, for the intervals.")]


def simulate(
    *,
    trace: Trace = None,
    mtbf: Failures = None,
    arrivals: Arrivals = "exponential",
    replace_after: ReplaceAfter = None,
    nodes: MostNodes = 10,
    horizon: Horizon = None,
    start: Start = None,
    victims: Victims = "newest",
    policies: Policies = "ideal,lazarus,best,ds,ds-ft",
    cost: Cost = None,
    model: Model = "gpt-l",
    loads: Loads = None,
    trials: Trials = 10,
    plot: Plot = None,
    seed: Seed = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Simulate training on nodes that come and go: samples, lost steps and where time went, by policy.

    Example: llmsys moe-train simulate --trace bamboo-aws-p3.csv --policies all --horizon 90d --plot goodput.svg
    """
    from llmsys.cli._plot import Figure, Line, draw
    from llmsys.moe_train.durations import optional_seconds
    from llmsys.moe_train.sim.policies import chosen_policies
    from llmsys.moe_train.sim.session import SimRequest, run_policies, summary_table
    from llmsys.moe_train.sim.workload import simulated_workload

    request = SimRequest(
        trace,
        optional_seconds(mtbf, "--mtbf", None),
        arrivals,
        optional_seconds(replace_after, "--replace-after", float("inf")),
        nodes,
        optional_seconds(start, "--start", 0.0),
        optional_seconds(horizon, "--horizon", None),
        victims,
        trials,
        seed,
    )
    work = simulated_workload(model, cost, loads, seed=seed)
    chosen = chosen_policies(policies, work.cost, work.loads)
    outcomes = []
    with records_out() as out, progress("runs") as advance:
        for outcome in run_policies(chosen, request, on_done=advance):
            outcomes.append(outcome)
            for point in outcome.timeline:
                out.write(point)
            out.write(outcome.summary)
    if plot is not None:
        lines = [outcome.line() for outcome in outcomes]
        draw(Figure("samples committed", "hours", "samples", [Line(*line) for line in lines]), plot)
    if not json:
        for remark in (work.note, *(f"{one.summary.policy}: {one.summary.note}" for one in outcomes)):
            note(remark)
        table(summary_table([outcome.summary for outcome in outcomes]), title="means over trials", stderr=True)


VERBS = (simulate,)
