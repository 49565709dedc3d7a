"""`llmsys fair-queue bench simulate|order|real`: the simulator, the filter and the step model beside their peers."""

from dataclasses import asdict
from typing import Annotated

import typer

from llmsys.cli._options import Json, Quiet
from llmsys.cli._render import note, progress, report

__all__ = ["order", "real", "simulate"]

Hardware = Annotated[str, typer.Option("--hardware", help="Step model: a10g-llama2-7b, or a TOML file of calibrate.")]


def simulate(
    trace: Annotated[str, typer.Argument(metavar="TRACE", help="A trace: JSON Lines, .gz and .zst too; - is stdin.")],
    *,
    policy: Annotated[str, typer.Option("--policy", help="Policies that the compiled loop knows.")] = "fcfs,vtc",
    times: Annotated[int, typer.Option("--times", min=1, help="How often the trace is repeated.")] = 50,
    cut: Annotated[int, typer.Option("--cut", min=1, help="Requests for the stepwise simulator.")] = 2000,
    memory: Annotated[int, typer.Option("--memory", min=1, help="Tokens that the running batch may hold.")] = 10_000,
    hardware: Hardware = "a10g-llama2-7b",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure requests simulated per CPU second, compiled and step by step, and check that both agree.

    Example: llmsys fair-queue bench simulate azure.jsonl --times 50
    """
    from llmsys.artifacts import read_trace
    from llmsys.fair_queue import sim
    from llmsys.fair_queue.bench import bench_simulate
    from llmsys.fair_queue.policy import split_specs

    work, specs = sim.workload_of(read_trace(trace)), split_specs(policy)
    machine, model = sim.Machine(memory), sim.load_hardware(hardware)
    with progress("policies", len(specs)) as advance:
        found = bench_simulate(work, specs, model, machine, times=times, cut=cut, on_done=advance)
    note("VTC-artifact: no package, not run; Vidur: loads its profiles from a model hub, not run")
    rows = [asdict(row) for row in found]
    report(rows, rows, title="requests per CPU second", json=json)


def order(
    *,
    lines: Annotated[int, typer.Option("--lines", min=1, help="Lines to order.")] = 1_000_000,
    tenants: Annotated[int, typer.Option("--tenants", min=1, help="Tenants that they come from.")] = 100_000,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Turns of each; medians are compared.")] = 3,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure the CPU time of order, of a script of json and heapq, and of a copy, on the same lines.

    Example: llmsys fair-queue bench order --lines 100000 --tenants 1000
    """
    from llmsys.fair_queue.bench import bench_order

    with progress("rounds", rounds + 1) as advance:
        found = bench_order(lines=lines, tenants=tenants, rounds=rounds, on_done=advance)
    title = f"order: {found.ratio:.2f} times the naive script's speed, target {found.target:g}"
    report(asdict(found), [asdict(row) for row in found.rows], title=title, json=json)


def real(
    logs: Annotated[list[str], typer.Argument(metavar="LOG...", help="Measured runs, as the VTC artifact's.")],
    *,
    hardware: Hardware = "a10g-llama2-7b",
    memory: Annotated[int, typer.Option("--memory", min=1, help="Tokens that the running batch may hold.")] = 10_000,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure how far the simulator is from measured runs: makespan, mean time to the first token, mean latency.

    Example: llmsys fair-queue bench real a10g_VTC_real.jsonl.gz
    """
    from llmsys.fair_queue import sim
    from llmsys.fair_queue.bench import bench_real

    found = bench_real(logs, sim.load_hardware(hardware), sim.Machine(memory, reserve="peak"))
    title = f"simulated / measured - 1; targets {'met' if found.within_targets else 'missed'}"
    report(asdict(found), [asdict(one) for one in found.runs], title=title, json=json)
