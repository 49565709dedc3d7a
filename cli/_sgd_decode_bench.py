"""`llmsys sgd-decode bench`: our modes beside their peers, in one run."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from llmsys.cli._options import Device, DType, Json, Quiet, Seed
from llmsys.cli._render import note, progress, report
from llmsys.cli._sgd_decode_options import Grammar, MaxNodes, Model, NodeTokens, Slots

__all__ = ["app"]

app = typer.Typer(help="Measure modes and peers side by side.", rich_markup_mode=None, no_args_is_help=True)


@app.callback()
def choose() -> None:
    """Measure modes and peers side by side."""


@app.command()
def plans(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Plans with lengths: {id, question, nodes} lines.")],
    *,
    alpha_ms: Annotated[float, typer.Option("--alpha-ms", min=0.0, help="Milliseconds of any step.")] = 26.2,
    beta_ms: Annotated[float, typer.Option("--beta-ms", min=0.0, help="Milliseconds more per text in a step.")] = 3.1,
    prefill_ms: Annotated[
        float, typer.Option("--prefill-ms", min=0.0, help="Milliseconds per word of a prompt.")
    ] = 3.0,
    max_batch: Slots = 8,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Play recorded plans in virtual time: makespan beside the optimum and the bound, answers beside ar, sot, sgd-v1.

    The default step times are the embedded model's on two cores. Example: llmsys sgd-decode bench plans plans.jsonl
    """
    from llmsys.sgd_decode import StepTime, bench_plans, read_plans

    law = StepTime(alpha_ms / 1000, beta_ms / 1000)
    found = bench_plans(read_plans(file), law, prefill_s=prefill_ms / 1000, slots=max_batch)
    rows = [
        {
            "plan": row.plan,
            "parts": row.parts,
            "width": row.width,
            "of optimum": row.of_optimum,
            "of bound": row.makespan_s / row.bound_s,
            "ar s": row.ar_s,
            "sgd s": row.sgd_s,
            "ar/sgd": row.ar_s / row.sgd_s,
            "v1/sgd": row.v1_s / row.sgd_s,
            "sot/sgd": row.sot_s / row.sgd_s,
            "ar/auto": row.ar_s / row.auto_s,
        }
        for row in found.rows
    ]
    report(asdict(found), rows, title=f"t(b) = {alpha_ms} + {beta_ms} b ms, {prefill_ms} ms per word", json=json)
    note(
        f"worst {found.worst_of_optimum:.3f} of the optimum; wide plans {found.wide_speed_up:.2f} times ar; "
        f"over sgd-v1 from {found.least_over_v1:.2f} to mean {found.mean_over_v1:.2f} times on five parts and more; "
        f"auto at least {found.least_auto:.3f} of ar; prefill overhead {found.prefill_below:.0%} below n prompts; "
        f"parts that see what they need: {', '.join(f'{mode} {share:.0%}' for mode, share in found.dependence.items())}"
    )


@app.command()
def engine(
    questions: Annotated[str, typer.Argument(metavar="FILE", help="OpenAI batch lines, or {id, question} lines.")],
    *,
    modes: Annotated[str, typer.Option("--modes", help="Modes, comma-separated.")] = "sgd,sgd-v1,sot",
    large: Model = "embedded",
    limit: Annotated[int, typer.Option("--limit", min=1, help="Take the first so many questions.")] = 8,
    full: Annotated[bool, typer.Option("--full", help="Take all questions.")] = False,
    max_batch: Slots = 8,
    max_nodes: MaxNodes = 10,
    node_tokens: NodeTokens = None,
    grammar: Grammar = True,
    peers: Annotated[bool, typer.Option("--peers/--no-peers", help="Measure transformers' generate too.")] = True,
    peer_tokens: Annotated[int, typer.Option("--peer-tokens", min=1, help="Tokens that a peer writes.")] = 48,
    device: Device = "auto",
    dtype: DType = "auto",
    seed: Seed = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Answer questions in every mode, each beside a plain answer of as many tokens on the same engine.

    t(b) is measured first. Peers run in float32 and are compared by rate. Texts of a small model are not judged.

    Example: llmsys sgd-decode bench engine questions.jsonl --limit 4 --node-tokens 96
    """
    from llmsys.sgd_decode import bench_engine, read_questions

    asked = list(read_questions(questions))[: None if full else limit]
    with progress("answers", len(asked) * len(modes.split(","))) as advance:
        found = bench_engine(
            asked, large, modes.split(","), slots=max_batch, max_nodes=max_nodes, node_tokens=node_tokens,
            grammar=grammar, device=device, dtype=dtype, seed=seed, peer_tokens=peer_tokens if peers else 0,
            on_done=advance,
        )  # fmt: skip
    report(asdict(found), [asdict(row) for row in found.modes], json=json)
    for line in found.remarks():
        note(line)


@app.command()
def routers(
    labels: Annotated[Path, typer.Argument(metavar="FILE", help="Lines {question, parallel_suitable: 0 or 1}.")],
    *,
    large: Annotated[
        str | None,
        typer.Option("--large", metavar="MODEL", help="Ask this model too; forms as in `run`. Default: do not."),
    ] = None,
    device: Device = "auto",
    dtype: DType = "auto",
    seed: Seed = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Count how often each router agrees with labels, beside the constant guess; labels by ten-fold cross-validation.

    Example: llmsys sgd-decode bench routers vicuna80.jsonl --large embedded
    """
    from llmsys.sgd_decode import bench_routers, open_backend

    backend = None
    if large is not None:
        backend = open_backend(large, slots=8, grammar=False, device=device, dtype=dtype, seed=seed)
    rows = [asdict(row) for row in bench_routers(labels, backend, seed=seed)]
    report({"routers": rows}, rows, json=json)
