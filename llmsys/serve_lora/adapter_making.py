"""Make an adapter directory: read what is to be learnt, train, write (serve-lora §3.3).

Ties prompts, tasks, training and files together; knows nothing of the command line.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch

from llmsys.errors import BadInput, UsageFault
from llmsys.gpu import require
from llmsys.serve_lora.adapter_files import TrainingRecord, write_adapter
from llmsys.serve_lora.adapter_training import (
    Example,
    TrainedAdapter,
    TrainingPlan,
    distil,
    read_chats,
    train_adapter,
)
from llmsys.serve_lora.prompts import TEACHING_PROMPTS, read_prompts
from llmsys.serve_lora.reference_model import ReferenceModel, load_reference
from llmsys.serve_lora.tasks import task_named

__all__ = ["Lesson", "make_adapter"]

Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


@dataclass(frozen=True, slots=True)
class Lesson:
    """What is to be learnt: a task by name with further prompts, or chats from a file; never both."""

    task: str | None = None
    data: Path | None = None
    prompts: Path | None = None

    def __post_init__(self) -> None:
        if (self.task is None) == (self.data is None):
            raise UsageFault("an adapter learns one thing; give either --task NAME or --data FILE.jsonl")
        if self.data is not None and self.prompts is not None:
            raise UsageFault("--prompts adds to the prompts of a --task; chats of --data bring their own")
        if self.task is not None:
            task_named(self.task)

    def examples(self, reference: ReferenceModel, answer_tokens: int) -> list[Example]:
        """What to train on. Raises BadInput where nothing is left."""
        if self.data is not None:
            return read_chats(self.data)
        prompts = list(TEACHING_PROMPTS) + (read_prompts(self.prompts, "train") if self.prompts else [])
        examples = distil(reference, task_named(self.task or ""), prompts, answer_tokens)
        if not examples:
            raise BadInput(str(self.prompts or self.task), "no answer fits the task", "a model that answers prompts")
        return examples


def make_adapter(
    path: Path, lesson: Lesson, plan: TrainingPlan, *, model: str, dtype: torch.dtype, progress: Progress
) -> TrainingRecord:
    """Train an adapter and write its directory.

    `progress(what, total)` opens a display of steps. Raises Unavailable without PEFT, UsageFault where `path` exists.
    """
    require("peft")  # before minutes of work that would be lost without it
    if path.exists():
        raise UsageFault(f"{path} exists; name a new directory or remove this one")
    reference = load_reference(model, dtype)
    examples = lesson.examples(reference, plan.answer_tokens)
    steps = plan.steps_for(len(examples))
    with progress("training", steps) as advance:
        trained = train_adapter(reference, examples, plan, advance)
    record = TrainingRecord(
        task=lesson.task or "",
        data=lesson.data.name if lesson.data else "",
        seed=plan.seed,
        steps=steps,
        examples=len(examples),
        final_loss=_final_loss(trained),
    )
    write_adapter(path, trained.tensors, trained.config, record)
    return record


def _final_loss(trained: TrainedAdapter, over: int = 10) -> float:
    last = trained.losses[-over:]
    return round(sum(last) / len(last), 6)
