"""The verbs of `llmsys serve-lora adapters`: options in, `llmsys.serve_lora` called, records out."""

from pathlib import Path
from typing import Annotated

import typer

from llmsys.cli._options import Device, DType, Json, Quiet, Seed, Threads
from llmsys.cli._render import progress, report

__all__ = ["adapters"]

adapters = typer.Typer(help="Make, list, check, merge, convert and judge adapters.", rich_markup_mode=None)

BaseModel = Annotated[
    str, typer.Option("--model", metavar="MODEL", help="Base model: a directory, a .gguf file, or smollm2.")
]


@adapters.command()
def make(
    directory: Annotated[Path, typer.Argument(help="Adapter directory to write; must not exist.")],
    task: Annotated[
        str | None, typer.Option("--task", help="Teach a rule: bullet, json, lower, prefix, terse or upper.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", metavar="FILE.jsonl", help='Teach chats: {"messages": [...]} per line.')
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option("--prompts", metavar="FILE.jsonl", help="More questions to teach a --task with.")
    ] = None,
    rank: Annotated[int, typer.Option("--rank", min=1, max=512, help="Rank of the adapter.")] = 8,
    targets: Annotated[
        str, typer.Option("--targets", help="Projections to adapt, comma-separated; all is all seven.")
    ] = "all",
    steps: Annotated[int, typer.Option("--steps", min=0, help="Optimizer steps of 4 answers; 0 is four passes.")] = 0,
    model: BaseModel = "smollm2",
    seed: Seed = 0,
    dtype: DType = "bfloat16",
    threads: Threads = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fine-tune an adapter on the CPU: a rule on the model's own answers, or chats from a file.

    Needs PEFT: pip install 'llmsys[train]'.

    llmsys serve-lora adapters make ./adapters/json --task json

    llmsys serve-lora adapters make ./adapters/fr --data chats.jsonl --rank 16 --targets q_proj,v_proj
    """
    from llmsys.gpu import choose_device, choose_dtype, set_threads
    from llmsys.serve_lora import ALL_TARGETS, Lesson, TrainingPlan, make_adapter

    set_threads(threads)
    plan = TrainingPlan(
        rank=rank,
        targets=ALL_TARGETS if targets == "all" else tuple(targets.split(",")),
        steps=steps or None,
        seed=seed,
    )
    record = make_adapter(
        directory,
        Lesson(task, data, prompts),
        plan,
        model=model,
        dtype=choose_dtype(dtype, choose_device("cpu")),
        progress=progress,
    )
    report(record, [{"adapter": str(directory), "steps": record.steps, "loss": record.final_loss}], json=json)
