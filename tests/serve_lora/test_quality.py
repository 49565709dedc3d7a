"""An adapter is judged by the task that made it, with the numbers the specification sets."""

import pytest

from llmsys.engine.config import EngineConfig
from llmsys.errors import BadInput, UsageFault
from llmsys.serve_lora.adapter_files import TrainingRecord, write_adapter
from llmsys.serve_lora.adapter_training import Example, TrainingPlan, train_adapter
from llmsys.serve_lora.quality import QualityRow, measure_quality, taught_tasks
from llmsys.serve_lora.reference_model import load_reference


def row(holds_with, holds_without):
    return QualityRow("a", "json", 24, holds_with, holds_without, "")


@pytest.mark.parametrize(
    ("holds_with", "holds_without", "accepted"),
    [(24, 0, True), (20, 2, True), (19, 0, False), (24, 3, False)],
)
def test_acceptance_is_80_percent_with_and_10_without(holds_with, holds_without, accepted):
    assert row(holds_with, holds_without).accepted is accepted


def test_an_adapter_that_no_task_made_cannot_be_judged(tmp_path):
    write_adapter(tmp_path / "fr", {}, {}, TrainingRecord(data="chats.jsonl"))

    with pytest.raises(BadInput, match="no task is known"):
        taught_tasks(tmp_path)


def test_a_task_that_is_not_known_is_named(tmp_path):
    write_adapter(tmp_path / "fr", {}, {}, TrainingRecord(task="shout"))

    with pytest.raises(UsageFault, match="shout"):
        taught_tasks(tmp_path)


def test_a_taught_model_is_told_from_its_base_in_one_batch(tiny_model, tmp_path):
    import torch

    reference = load_reference(str(tiny_model), torch.float32)
    prompts = ["hi", "ho", "ha", "hu"]
    examples = [Example(({"role": "user", "content": text},), "In short: yes") for text in prompts]
    plan = TrainingPlan(rank=8, steps=120, learning_rate=1e-2)
    trained = train_adapter(reference, examples, plan, lambda steps: None)
    write_adapter(tmp_path / "all" / "short", trained.tensors, trained.config, TrainingRecord(task="prefix"))
    answered = []

    (found,) = measure_quality(
        tmp_path / "all",
        prompts,
        model=str(tiny_model),
        config=EngineConfig(dtype="float32"),
        max_tokens=16,
        advance=answered.append,
    )

    assert (found.holds_with, found.holds_without, found.accepted) == (4, 0, True)
    assert sum(answered) == 8
