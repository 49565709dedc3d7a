"""Options of `llmsys moe-train run` and of what reads its checkpoints."""

from pathlib import Path
from typing import Annotated

import typer

from llmsys.cli._options import one_of

__all__ = [
    "AuditEvery",
    "Balance",
    "BalanceWeight",
    "Batch",
    "CkptEvery",
    "CommTimeout",
    "Experts",
    "Faults",
    "GradCodec",
    "Heartbeat",
    "JoinWait",
    "LearningRate",
    "LoadWindow",
    "LoadsOut",
    "Mapping",
    "Model",
    "NormTopK",
    "Number",
    "OnNan",
    "Optimizer",
    "Out",
    "RebalanceAt",
    "RebalanceEvery",
    "Resume",
    "RunDirectory",
    "Seq",
    "Spares",
    "Speedup",
    "Steps",
    "Text",
    "TopK",
    "Trace",
    "TransferCodec",
    "WorkerThreads",
    "Workers",
]

Text = Annotated[
    list[Path] | None,
    typer.Option(
        "--text",
        metavar="PATH",
        exists=True,
        help="File or directory of text, as bytes; may be repeated. Default: CPython's help.",
    ),
]
Model = Annotated[str, typer.Option("--model", help="tiny, gpt-s, gpt-m, gpt-l, JSON, or a file of JSON.")]
Experts = Annotated[int | None, typer.Option("--experts", min=1, help="Experts per mixture; default the model's.")]
TopK = Annotated[int | None, typer.Option("--top-k", min=1, help="Experts per token; default the model's.")]
Seq = Annotated[int, typer.Option("--seq", min=1, help="Bytes in a sequence.")]
Batch = Annotated[int, typer.Option("--batch", min=1, help="Sequences in a step, whatever the number of workers.")]
Steps = Annotated[int, typer.Option("--steps", min=1, help="Steps in all, those before --resume included.")]
LearningRate = Annotated[float, typer.Option("--lr", min=0.0, help="Learning rate of the optimizer.")]
Optimizer = Annotated[
    str,
    typer.Option("--optimizer", help="adamw, or sgd (momentum 0.9, no decay).", callback=one_of("adamw", "sgd")),
]
Balance = Annotated[
    str | None,
    typer.Option(
        "--balance",
        help="What evens experts out: a loss, or a bias on the choice (DeepSeek-V3); default the model's.",
        callback=one_of("loss", "bias"),
    ),
]
NormTopK = Annotated[
    bool | None,
    typer.Option("--norm-topk/--no-norm-topk", help="Let a token's gates sum to 1; default the model's."),
]
BalanceWeight = Annotated[float, typer.Option("--balance-weight", min=0.0, help="Weight of the balance loss.")]
Number = Annotated[
    str,
    typer.Option(
        "--dtype",
        help="Number format: float32, float64 or bfloat16.",
        callback=one_of("float32", "float64", "bfloat16"),
    ),
]
Workers = Annotated[int, typer.Option("--workers", min=1, help="Worker processes to begin with.")]
Spares = Annotated[int, typer.Option("--spares", min=0, help="Workers that wait, ready to take a dead one's place.")]
WorkerThreads = Annotated[int, typer.Option("--threads", min=1, help="CPU threads of each worker.")]
Mapping = Annotated[
    str,
    typer.Option(
        "--mapping",
        help="Which worker becomes which column of a new plan: optimal (fewest bytes), greedy (the paper's) or fixed.",
        callback=one_of("optimal", "greedy", "fixed"),
    ),
]
LoadWindow = Annotated[int, typer.Option("--load-window", min=1, help="Steps over which loads are averaged.")]
RebalanceEvery = Annotated[int, typer.Option("--rebalance-every", min=1, help="Steps between looks for a better plan.")]
RebalanceAt = Annotated[
    float, typer.Option("--rebalance-at", min=1.0, help="Busiest over mean worker that calls for a look earlier.")
]
Faults = Annotated[
    str,
    typer.Option(
        "--faults",
        metavar="SPEC",
        help="Faults on purpose, by ';', or a file of them, - is stdin: STEP:kill:W[+W], STEP:stop:W, STEP:notice:W, "
        "STEP:add:K, STEP:slow:W:FACTOR, STEP@SITE:kill:W, t=SECONDS:kill:W.",
    ),
]
Trace = Annotated[
    Path | None,
    typer.Option(
        "--trace",
        metavar="F",
        exists=True,
        help="Availability trace as `simulate` reads: its nodes are the workers, at most --workers at once.",
    ),
]
Speedup = Annotated[float, typer.Option("--speedup", min=1e-3, help="Seconds of --trace that pass in one of the run.")]
LoadsOut = Annotated[
    Path | None,
    typer.Option(
        "--loads-out", metavar="F", help="Write the average tokens per expert, as `plan` and `simulate` read."
    ),
]
GradCodec = Annotated[
    str,
    typer.Option(
        "--grad-codec",
        help="Gradients between workers: none (exact), tq or tq:BITS a number (lossy: losses then depend on who dies).",
    ),
]
TransferCodec = Annotated[
    str,
    typer.Option(
        "--transfer-codec",
        help="Expert states between workers: none, or lossless (fewer bytes, more seconds).",
        callback=one_of("none", "lossless"),
    ),
]
JoinWait = Annotated[
    str | None,
    typer.Option("--join-wait", help="Time that new workers wait for others before they join; default none."),
]
Heartbeat = Annotated[
    str, typer.Option("--heartbeat", help="Silence after which a worker counts as hung and is killed.")
]
CommTimeout = Annotated[str, typer.Option("--comm-timeout", help="Time limit of one exchange between workers.")]
AuditEvery = Annotated[
    int, typer.Option("--audit-every", min=0, help="Steps between comparisons of what several workers hold; 0: never.")
]
OnNan = Annotated[
    str,
    typer.Option(
        "--on-nan", help="A gradient that is not finite: skip the step or stop.", callback=one_of("skip", "stop")
    ),
]
Out = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="Where checkpoints go; without it there are none.")
]
CkptEvery = Annotated[int, typer.Option("--ckpt-every", min=1, help="Steps between checkpoints.")]
Resume = Annotated[
    Path | None,
    typer.Option("--resume", metavar="DIR", help="Go on from the newest checkpoint of this --out directory."),
]
RunDirectory = Annotated[Path, typer.Argument(metavar="DIR", help="The --out directory of a run, or one checkpoint.")]
