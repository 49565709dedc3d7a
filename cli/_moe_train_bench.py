"""`llmsys moe-train bench`: the planner's parts beside their peers, with the stated targets."""

from pathlib import Path
from typing import Annotated

import typer

from llmsys.cli._options import Json, Quiet, Seed, one_of
from llmsys.cli._render import note, report, table

__all__ = ["VERBS"]

What = Annotated[
    str,
    typer.Option(
        "--what",
        help="plan (time, chances and balance of planners), dispatch (the table of who computes which token) or "
        "simulate (the paper's settings, and node events a minute), recover (from a kill to the next step, beside "
        "restarts), train (what elasticity costs without faults, and grouped experts beside a loop), "
        "calibrate (what a step, a change and a byte cost in a real run here).",
        callback=one_of("plan", "dispatch", "simulate", "recover", "train", "calibrate"),
    ),
]
Eplb = Annotated[Path | None, typer.Option("--eplb", metavar="F", help="DeepSeek's eplb.py, to run beside ours.")]
Trace = Annotated[Path | None, typer.Option("--trace", metavar="F", help="Bamboo's p3 trace, for simulate.")]
Out = Annotated[
    Path | None, typer.Option("--out", metavar="F", help="Of calibrate: costs for `simulate --cost`, as JSON.")
]
Runs = Annotated[int, typer.Option("--runs", min=1, help="Measured runs; medians are shown.")]


def bench(
    *,
    what: What = "plan",
    eplb: Eplb = None,
    trace: Trace = None,
    out: Out = None,
    runs: Runs = 5,
    seed: Seed = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure one part beside its peers in one run: ratios, limits, and how far each stated target is.

    Example: llmsys moe-train bench --what plan --eplb eplb.py
    """
    from llmsys.moe_train.plan_bench import BenchFound, bench_dispatch, bench_plan, bench_simulate

    def recover() -> BenchFound:
        from llmsys.moe_train.train import bench_recover

        return bench_recover(runs=runs)

    def train() -> BenchFound:
        from llmsys.moe_train.train import bench_train

        return bench_train(runs=runs, seed=seed)

    def calibrate() -> BenchFound:
        from llmsys.moe_train.sim import write_cost
        from llmsys.moe_train.train import bench_calibrate

        cost, found = bench_calibrate(runs=runs, seed=seed)
        if out is not None:
            write_cost(out, cost)
        return found

    if out is not None and what != "calibrate":
        raise typer.BadParameter("only --what calibrate writes a file", param_hint="--out")
    found = {
        "plan": lambda: bench_plan(eplb=eplb, runs=runs, seed=seed),
        "dispatch": lambda: bench_dispatch(runs=runs, seed=seed),
        "simulate": lambda: bench_simulate(trace=trace, seed=seed),
        "recover": recover,
        "train": train,
        "calibrate": calibrate,
    }[what]()
    if not json:
        table([target.row() for target in found.targets], title="targets", stderr=True)
        for name, reason in found.missing.items():
            note(f"not compared: {name}: {reason}")
    report(found.record(), found.rows, title=what, json=json)


VERBS = (bench,)
