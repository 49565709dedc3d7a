"""`llmsys pse-hash`: options in, `llmsys.pse_hash` called, records out."""

from pathlib import Path
from typing import Annotated

import typer

from llmsys.cli import _pse_hash_ask, _pse_hash_upkeep
from llmsys.cli._options import Json, Quiet, Seed, one_of
from llmsys.cli._render import report

__all__ = ["app"]

app = typer.Typer(
    help="Dynamic kernel-density estimates, robust to adaptive queries.", rich_markup_mode=None, no_args_is_help=True
)


KernelName = Annotated[
    str,
    typer.Option(
        "--kernel",
        help="gaussian, exponential, laplacian, cauchy or dot.",
        callback=one_of("gaussian", "exponential", "laplacian", "cauchy", "dot"),
    ),
]
Method = Annotated[
    str,
    typer.Option(
        "--method",
        help="auto, exact, rs, strat, deann or hbe.",
        callback=one_of("auto", "exact", "rs", "strat", "deann", "hbe"),
    ),
]
Robust = Annotated[
    str,
    typer.Option(
        "--robust",
        help="Against adaptive queries: fresh coins, net, dp or none.",
        callback=one_of("fresh", "net", "dp", "none"),
    ),
]
Radius = Annotated[
    float, typer.Option("--radius", help="Radius about the points' mean that net covers; 0: the farthest point's.")
]
Ids = Annotated[
    Path | None, typer.Option("--ids", metavar="FILE", help="Ids: .npy or one per line; default: row numbers.")
]
Weights = Annotated[
    Path | None, typer.Option("--weights", metavar="FILE", help="Weights >= 0: .npy or one per line; default: 1.")
]


@app.command()
def build(
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="Points: .npy, .fvecs, .safetensors or JSON Lines; - is stdin.")
    ],
    *,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Directory to make.")],
    kernel: KernelName = "gaussian",
    bandwidth: Annotated[
        str, typer.Option("--bandwidth", metavar="H", help="A number, median, scott, or target:MU for a median of MU.")
    ] = "median",
    scale: Annotated[
        float | None, typer.Option("--scale", help="S of the kernel dot, exp(S <x,y>); default: 1/sqrt(d).")
    ] = None,
    method: Method = "auto",
    eps: Annotated[float, typer.Option("--eps", help="Relative error that answers may have.")] = 0.1,
    delta: Annotated[float, typer.Option("--delta", help="Share of answers that may miss it.")] = 0.01,
    tau: Annotated[float, typer.Option("--tau", help="Values below this may be answered loosely.")] = 1e-6,
    robust: Robust = "fresh",
    radius: Radius = 0.0,
    max_queries: Annotated[int, typer.Option("--max-queries", min=1, help="Answers that dp may give.")] = 1000,
    tables: Annotated[int, typer.Option("--tables", min=1, help="Hash tables per resolution and copy of hbe.")] = 100,
    ids: Ids = None,
    weights: Weights = None,
    max_memory: Annotated[
        int, typer.Option("--max-memory", metavar="MIB", min=1, help="MiB that building may take.")
    ] = 16_384,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a sketch that is there.")] = False,
    seed: Seed = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a sketch of points from which mean kernel values can be asked.

    Example: llmsys pse-hash build corpus.npy --bandwidth target:1e-3 --out corpus.pse
    """
    from llmsys.pse_hash import PairwiseSum, Settings
    from llmsys.pse_hash.building import chosen_scale, read_ids, read_points, read_weights, refuse_over
    from llmsys.pse_hash.files import save

    read = read_points(data)
    refuse_over(max_memory << 20, read.values)
    settings = Settings(
        kernel, chosen_scale(kernel, bandwidth, scale, read.values), method=method, eps=eps, delta=delta, tau=tau,
        robust=robust, radius=radius, max_queries=max_queries, tables=tables, seed=seed,
    )  # fmt: skip
    names, heavy = read_ids(ids, read, data), read_weights(weights, len(read.values))
    made = PairwiseSum.build(read.values, settings, ids=names, weights=heavy, measure=method == "auto")
    save(made, out, overwrite=overwrite)
    summary: dict[str, str | float] = {
        "n": made.count,
        "d": made.points.dim,
        "kernel": kernel,
        "scale": settings.scale,
        "method": method,
    }
    report(summary, [summary], json=json)


for verb in _pse_hash_ask.VERBS + _pse_hash_upkeep.VERBS:
    app.command(verb.__name__)(verb)
