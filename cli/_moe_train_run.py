"""`llmsys moe-train run, eval, export`: text in, events and models out."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmsys.cli import _moe_train_options as opt
from llmsys.cli._moe_train_run_options import (
    AuditEvery,
    Balance,
    BalanceWeight,
    Batch,
    CkptEvery,
    CommTimeout,
    Experts,
    Faults,
    GradCodec,
    Heartbeat,
    JoinWait,
    LearningRate,
    LoadsOut,
    LoadWindow,
    Mapping,
    Model,
    NormTopK,
    Number,
    OnNan,
    Optimizer,
    Out,
    RebalanceAt,
    RebalanceEvery,
    Resume,
    RunDirectory,
    Seq,
    Spares,
    Speedup,
    Steps,
    Text,
    TopK,
    Trace,
    TransferCodec,
    Workers,
    WorkerThreads,
)
from llmsys.cli._options import ChromeTrace, Json, Quiet, Seed
from llmsys.cli._render import note, progress, report
from llmsys.cli._streams import records_out

if TYPE_CHECKING:
    from llmsys.moe_train.train import Event

__all__ = ["VERBS"]


def run(
    *,
    text: Text = None,
    model: Model = "tiny",
    experts: Experts = None,
    top_k: TopK = None,
    norm_topk: NormTopK = None,
    seq: Seq = 256,
    batch: Batch = 32,
    steps: Steps = 100,
    lr: LearningRate = 1e-3,
    optimizer: Optimizer = "adamw",
    balance: Balance = None,
    balance_weight: BalanceWeight = 0.01,
    dtype: Number = "float32",
    workers: Workers = 4,
    spares: Spares = 0,
    slots: opt.Slots = 4,
    min_replicas: opt.MinReplicas = 2,
    placement: opt.Placement = "best",
    split: opt.Split = "lp",
    mapping: Mapping = "optimal",
    load_window: LoadWindow = 200,
    rebalance_every: RebalanceEvery = 200,
    rebalance_at: RebalanceAt = 1.25,
    faults: Faults = "",
    trace: Trace = None,
    speedup: Speedup = 600.0,
    join_wait: JoinWait = None,
    grad_codec: GradCodec = "none",
    transfer_codec: TransferCodec = "none",
    heartbeat: Heartbeat = "1s",
    comm_timeout: CommTimeout = "20s",
    audit_every: AuditEvery = 100,
    on_nan: OnNan = "skip",
    out: Out = None,
    ckpt_every: CkptEvery = 250,
    resume: Resume = None,
    loads_out: LoadsOut = None,
    chrome_trace: ChromeTrace = None,
    seed: Seed = 0,
    threads: WorkerThreads = 1,
    quiet: Quiet = False,
) -> None:
    """Train a mixture-of-experts model on local workers that may die, hang, join and leave; events as they happen.

    Example: llmsys moe-train run --workers 4 --steps 300 --faults '40:kill:2;90:kill:0+3;150:add:2' --out run
    """
    events = _told(dict(locals()), steps)  # forty of them, all the configuration's
    if chrome_trace is not None:
        _draw(events, chrome_trace)


def _told(options: dict[str, object], steps: int) -> "list[Event]":
    """Every event of the run, written as it happens."""
    from llmsys.moe_train.train import Trainer, run_config

    trainer = Trainer(run_config(options))
    for warning in trainer.warnings:
        note(f"warning: {warning}")
    events: list[Event] = []
    with records_out(flush_each=True) as written, progress("steps", steps) as advance:
        for event in trainer.run():
            written.write(event)
            events.append(event)
            advance(int(event["event"] == "step"))
    return events


def _draw(events: "list[Event]", path: Path) -> None:
    from llmsys.artifacts import write_chrome_trace
    from llmsys.moe_train.train import run_spans

    write_chrome_trace(path, run_spans(events))


def evaluate(directory: RunDirectory, *, text: Text = None, json: Json = False, quiet: Quiet = False) -> None:
    """Print the bits per byte of a checkpoint on a text; without --text on what the default corpus holds out.

    Example: llmsys moe-train eval run --text novel.txt
    """
    from llmsys.moe_train.train import evaluate, evaluation_text, open_run

    checkpoint, faults = open_run(directory)
    for fault in faults:
        note(f"warning: not read: {fault}")
    found = evaluate(checkpoint, evaluation_text([str(path) for path in text or ()]))
    row = {"step": found.step, "bytes": found.bytes, "bits_per_byte": found.bits_per_byte}
    report(found, [row], title=f"{checkpoint.path.name}", json=json)


def export(
    directory: RunDirectory,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Directory to write; not there yet.")],
    *,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a checkpoint as a model directory with Mixtral's names; transformers loads it where the model is Mixtral's.

    Example: llmsys moe-train export run model
    """
    from llmsys.moe_train.train import export_model, is_mixtral, open_run

    checkpoint, faults = open_run(directory)
    for fault in faults:
        note(f"warning: not read: {fault}")
    fits = is_mixtral(checkpoint.note.identity.model)
    if not fits:
        note("warning: transformers has no such model: it takes swiglu, norm_topk and a mixture in every layer")
    row = {"step": checkpoint.note.step, "parameters": export_model(checkpoint, out), "transformers": fits}
    report(row, [row], title=str(out), json=json)


evaluate.__name__ = "eval"
VERBS = (run, evaluate, export)
