"""A small model learns what it is shown, the same way every time, and is left as it was."""

import json

import pytest
import torch

from llmsys.engine.adapter_files import read_adapter
from llmsys.engine.loader import read_config
from llmsys.errors import BadInput, UsageFault
from llmsys.serve_lora.adapter_files import read_training_record
from llmsys.serve_lora.adapter_making import Lesson, make_adapter
from llmsys.serve_lora.adapter_training import Example, TrainingPlan, distil, read_chats, train_adapter
from llmsys.serve_lora.reference_model import answer_greedily, load_reference
from llmsys.serve_lora.tasks import TASKS

PLAN = TrainingPlan(rank=4, steps=40, learning_rate=1e-2, targets=("q_proj", "v_proj", "down_proj"))
CHATS = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]


@pytest.fixture
def reference(tiny_model):
    return load_reference(str(tiny_model), torch.float32)


def examples() -> list[Example]:
    return [Example(({"role": "user", "content": text},), "yes yes") for text in ("hi", "ho", "ha", "hu")]


def nothing(steps: int) -> None:
    pass


def test_the_loss_falls_and_the_answer_is_learnt(reference):
    steps = []

    trained = train_adapter(reference, examples(), PLAN, steps.append)

    assert sum(steps) == len(trained.losses) == 40
    assert trained.losses[-1] < 0.5 * trained.losses[0]
    assert set(trained.config["target_modules"]) == set(PLAN.targets)
    assert {tensor.dtype for tensor in trained.tensors.values()} == {torch.bfloat16}


def test_equal_seeds_give_equal_bytes_and_other_seeds_others(reference):
    first, second = (train_adapter(reference, examples(), PLAN, nothing) for _ in range(2))
    other = train_adapter(reference, examples(), TrainingPlan(rank=4, steps=40, targets=PLAN.targets, seed=1), nothing)

    assert all(torch.equal(first.tensors[name], second.tensors[name]) for name in first.tensors)
    assert any(not torch.equal(first.tensors[name], other.tensors[name]) for name in first.tensors)


def test_training_leaves_the_base_model_as_it_was(reference):
    before = {name: tensor.clone() for name, tensor in reference.model.state_dict().items()}

    train_adapter(reference, examples(), PLAN, nothing)

    after = reference.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(parameter.requires_grad for parameter in reference.model.parameters())
    assert not reference.model.training


def test_distilled_answers_fit_the_task_and_come_from_the_model_itself(reference):
    prompts = ["one", "two"]
    own = answer_greedily(reference, prompts, 12)

    found = distil(reference, TASKS["prefix"], prompts, 12)

    assert [one.answer for one in found] == [TASKS["prefix"].rewrite(text) for text, _ in own]
    assert [one.whole for one in found] == [finished for _, finished in own]


def test_batched_answers_are_those_of_each_prompt_alone(reference):
    prompts = ["a", "a much longer prompt than the first", "b"]

    together = answer_greedily(reference, prompts, 8)

    assert together == [answer_greedily(reference, [prompt], 8)[0] for prompt in prompts]


def test_an_adapter_made_from_chats_is_one_that_the_engine_reads(tiny_model, tmp_path):
    data = tmp_path / "chats.jsonl"
    data.write_text(json.dumps({"messages": CHATS}) + "\n")
    plan = TrainingPlan(rank=2, steps=2, targets=("q_proj",))

    made = [
        make_adapter(
            tmp_path / name, Lesson(data=data), plan, model=str(tiny_model), dtype=torch.float32, progress=silent
        )
        for name in ("one", "two")
    ]

    file = read_adapter(tmp_path / "one", read_config(tiny_model), rank_max=8)
    assert (file.rank, file.targets) == (2, ("q_proj",))
    assert read_training_record(tmp_path / "one") == made[0]
    assert (made[0].data, made[0].examples, made[0].steps) == ("chats.jsonl", 1, 2)
    for name in ("adapter_model.safetensors", "adapter_config.json", "training.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_an_adapters_configuration_names_no_path_of_this_machine(tiny_model, reference):
    trained = train_adapter(reference, examples(), TrainingPlan(rank=1, steps=1, targets=("q_proj",)), nothing)

    assert trained.config["base_model_name_or_path"] == tiny_model.name


def test_what_is_there_is_not_written_over(tiny_model, tmp_path):
    with pytest.raises(UsageFault, match="exists"):
        make_adapter(tmp_path, Lesson(task="json"), PLAN, model=str(tiny_model), dtype=torch.float32, progress=silent)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({}, "either --task"),
        ({"task": "json", "data": "x"}, "either --task"),
        ({"data": "x", "prompts": "y"}, "--prompts"),
        ({"task": "shout"}, "shout"),
    ],
)
def test_a_lesson_teaches_one_thing(given, named):
    with pytest.raises(UsageFault, match=named):
        Lesson(**given)


@pytest.mark.parametrize("targets", [(), ("q_proj", "lm_head")])
def test_unknown_targets_name_the_known_ones(targets):
    with pytest.raises(UsageFault, match="q_proj, k_proj"):
        TrainingPlan(targets=targets)


@pytest.mark.parametrize(
    "line",
    [
        '{"messages": []}',
        '{"messages": [{"role": "user", "content": "hi"}]}',
        '{"messages": [{"role": "robot", "content": "hi"}]}',
        '{"messages": "hi"}',
        "",
    ],
)
def test_a_file_of_chats_without_answers_is_refused(tmp_path, line):
    path = tmp_path / "chats.jsonl"
    path.write_text(line + "\n")

    with pytest.raises(BadInput, match=r"chats\.jsonl"):
        read_chats(path)


class silent:
    """A progress display that shows nothing."""

    def __init__(self, what, total):
        pass

    def __enter__(self):
        return nothing

    def __exit__(self, *_):
        return None
