"""The verbs of `llmsys serve-lora adapters`: options in, `llmsys.serve_lora` called, records out."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmsys.cli._options import Device, DType, Json, Quiet, Seed, Threads
from llmsys.cli._render import note, progress, report

if TYPE_CHECKING:
    from llmsys.serve_lora.adapter_check import AdapterReport

__all__ = ["adapters"]

adapters = typer.Typer(help="Make, list, check, merge, convert and judge adapters.", rich_markup_mode=None)

Directory = Annotated[Path, typer.Argument(help="An adapter directory, or a directory of such.")]
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
    from llmsys.serve_lora.adapter_making import Lesson, make_adapter
    from llmsys.serve_lora.adapter_training import ALL_TARGETS, TrainingPlan

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


@adapters.command("list")
def list_adapters(
    directory: Directory,
    model: BaseModel = "smollm2",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """List the adapters of a directory: rank, targets, size, digest, base, and which are broken.

    llmsys serve-lora adapters list ./adapters
    """
    _report_checked(directory, model, json=json)


@adapters.command()
def check(
    directory: Directory,
    model: BaseModel = "smollm2",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check every tensor of every adapter against the base model; exit 65 names the first that does not fit.

    llmsys serve-lora adapters check ./adapters
    """
    from llmsys.serve_lora.adapter_check import raise_first_fault

    raise_first_fault(_report_checked(directory, model, json=json))


def _report_checked(directory: Path, model: str, *, json: bool) -> "list[AdapterReport]":
    """Print what every adapter of a directory is, or why it is broken."""
    from llmsys.engine.loader import read_config
    from llmsys.gpu import find_model
    from llmsys.serve_lora.adapter_check import check_adapters

    reports = check_adapters(directory, read_config(find_model(model)))
    report(reports, [one.as_row() for one in reports], json=json)
    return reports


@adapters.command()
def merge(
    adapter: Annotated[Path, typer.Argument(help="Adapter directory.")],
    destination: Annotated[Path, typer.Argument(help="Model directory to write; must not exist.")],
    model: BaseModel = "smollm2",
    dtype: DType = "bfloat16",
    quiet: Quiet = False,
) -> None:
    """Fold an adapter into its base model: a model directory that needs no adapter.

    llmsys serve-lora adapters merge ./adapters/json ./smollm2-json
    """
    from llmsys.gpu import choose_device, choose_dtype
    from llmsys.serve_lora.adapter_merge import merge_adapter

    merged = merge_adapter(adapter, destination, model=model, dtype=choose_dtype(dtype, choose_device("cpu")))
    note(f"{destination}: {model} with {adapter}, {merged.parameters} adapter parameters merged")


@adapters.command()
def convert(
    source: Annotated[Path, typer.Argument(help="Adapter directory, or a LoRA in a .gguf file.")],
    destination: Annotated[Path, typer.Argument(help="The other of the two; must not exist.")],
    model: BaseModel = "smollm2",
    quiet: Quiet = False,
) -> None:
    """Convert an adapter between PEFT's directory and llama.cpp's GGUF, without loss.

    llmsys serve-lora adapters convert ./adapters/json json-lora.gguf
    """
    from llmsys.engine.loader import read_config
    from llmsys.gpu import find_model
    from llmsys.serve_lora.adapter_convert import convert_adapter

    convert_adapter(source, destination, read_config(find_model(model)))
    note(f"wrote {destination}")


@adapters.command("bench-quality")
def bench_quality(
    directory: Directory,
    prompts: Annotated[
        Path, typer.Option("--prompts", metavar="FILE.jsonl", help='Held-out questions: {"id", "question", "split"?}.')
    ],
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="Tokens of an answer that are judged.")] = 48,
    model: BaseModel = "smollm2",
    device: Device = "auto",
    dtype: DType = "auto",
    threads: Threads = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Count held-out prompts whose answer has an adapter's property, with it and without it.

    An adapter is accepted from 80 % with it and up to 10 % without it. All answers come from one mixed batch.

    llmsys serve-lora adapters bench-quality ./adapters --prompts prompts.jsonl
    """
    from llmsys.engine.config import EngineConfig
    from llmsys.gpu import set_threads
    from llmsys.serve_lora.adapter_files import find_adapters
    from llmsys.serve_lora.prompts import read_prompts
    from llmsys.serve_lora.quality import measure_quality

    set_threads(threads)
    held_out = read_prompts(prompts, "held-out")
    with progress("answers", len(held_out) * (1 + len(find_adapters(directory)))) as advance:
        rows = measure_quality(
            directory,
            held_out,
            model=model,
            config=EngineConfig(device=device, dtype=dtype),
            max_tokens=max_tokens,
            advance=advance,
        )
    report([row.as_record() for row in rows], [row.as_record() for row in rows], json=json)
