"""Does an adapter do what it was taught? The share of held-out prompts whose answer has the task's property, with it
and without it (serve-lora §3.3).

Every answer, the base model's too, comes from one mixed batch of the engine: an adapter that leaked into another's rows
would show. Knows nothing of training.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmsys.engine.config import EngineConfig
from llmsys.engine.core import Engine
from llmsys.engine.outputs import Completion
from llmsys.engine.sequence import Request, SamplingParams
from llmsys.errors import BadInput
from llmsys.serve_lora.adapter_files import find_adapters, read_training_record
from llmsys.serve_lora.tasks import Task, task_named

__all__ = ["QualityRow", "measure_quality", "taught_tasks"]

WANTED_WITH = 0.8
ALLOWED_WITHOUT = 0.1


@dataclass(frozen=True, slots=True)
class QualityRow:
    """One adapter's verdict: on how many of `prompts` the property held with it, and without it."""

    adapter: str
    task: str
    prompts: int
    holds_with: int
    holds_without: int
    example: str

    @property
    def accepted(self) -> bool:
        """At least WANTED_WITH of the prompts with the adapter, at most ALLOWED_WITHOUT without."""
        return self.holds_with >= WANTED_WITH * self.prompts and self.holds_without <= ALLOWED_WITHOUT * self.prompts

    def as_record(self) -> dict[str, str | int | bool]:
        """The row as JSON values, and as cells of a table."""
        return {
            "adapter": self.adapter,
            "task": self.task,
            "prompts": self.prompts,
            "with": self.holds_with,
            "without": self.holds_without,
            "accepted": self.accepted,
            "example": self.example,
        }


def taught_tasks(directory: Path) -> dict[str, tuple[Path, Task]]:
    """Path and task of every adapter in a directory. Raises BadInput for one that no task made."""
    found = {}
    for name, path in find_adapters(directory).items():
        record = read_training_record(path)
        if record is None or not record.task:
            raise BadInput(str(path), "no task is known to judge it by", "an adapter from `adapters make --task`")
        found[name] = path, task_named(record.task)
    return found


def measure_quality(
    directory: Path,
    prompts: Sequence[str],
    *,
    model: str,
    config: EngineConfig,
    max_tokens: int,
    advance: Callable[[int], None],
) -> list[QualityRow]:
    """A row per adapter. `advance` is called with 1 for every answer."""
    taught = taught_tasks(directory)
    engine = Engine.load(model, config=config)
    for name, (path, _) in taught.items():
        engine.adapters.register(name, path)
    greedy = SamplingParams(max_tokens=max_tokens, temperature=0.0)
    names: list[str | None] = [None, *taught]
    requests = [
        Request(prompt=[{"role": "user", "content": prompt}], sampling=greedy, adapter=name)
        for prompt in prompts
        for name in names
    ]
    answers = engine.generate(requests, progress=lambda _: advance(1))
    by_name = {name: answers[at :: len(names)] for at, name in enumerate(names)}
    return [
        QualityRow(
            adapter=name,
            task=task.name,
            prompts=len(prompts),
            holds_with=_held(task, by_name[name]),
            holds_without=_held(task, by_name[None]),
            example=by_name[name][0].text[:60],
        )
        for name, (_, task) in taught.items()
    ]


def _held(task: Task, answers: Sequence[Completion]) -> int:
    return sum(task.holds(answer.text, answer.finish == "stop") for answer in answers)
