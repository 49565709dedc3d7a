"""Teach an adapter: the base model's own answers, rewritten by a task's rule, or chats from a file (serve-lora §3.3).

PEFT's LoRA, plain torch, AdamW, loss on the answer alone. Same seed, data, threads and machine: same bytes. Knows
nothing of serving or of files but the chats it reads.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import torch
from torch import Tensor

from llmsys.artifacts import read_records
from llmsys.errors import BadInput, UsageFault
from llmsys.gpu import require
from llmsys.serve_lora.reference_model import Message, ReferenceModel, answer_greedily, chat_ids
from llmsys.serve_lora.tasks import Task

__all__ = [
    "ALL_TARGETS",
    "Example",
    "TrainedAdapter",
    "TrainingPlan",
    "distil",
    "read_chats",
    "train_adapter",
]

ALL_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
BATCH = 4
WARMUP_STEPS = 5
PASSES = 4
IGNORED = -100


@dataclass(frozen=True, slots=True)
class Example:
    """A chat and the answer to learn; `whole` is False where the answer was cut, so that its end is not learnt."""

    context: tuple[Message, ...]
    answer: str
    whole: bool = True


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """How an adapter is trained; `steps` None means PASSES passes over the examples."""

    rank: int = 8
    targets: tuple[str, ...] = ALL_TARGETS
    steps: int | None = None
    learning_rate: float = 2e-3
    seed: int = 0
    answer_tokens: int = 48

    def __post_init__(self) -> None:
        unknown = sorted(set(self.targets) - set(ALL_TARGETS))
        if unknown or not self.targets:
            raise UsageFault(f"no target {', '.join(unknown) or '(none given)'}; targets: {', '.join(ALL_TARGETS)}")

    def steps_for(self, examples: int) -> int:
        """Optimizer steps for that many examples."""
        return self.steps if self.steps is not None else -(-examples * PASSES // BATCH)


@dataclass(frozen=True, slots=True)
class TrainedAdapter:
    """PEFT-named tensors in bfloat16, PEFT's configuration as JSON values, and the loss of every step."""

    tensors: dict[str, Tensor]
    config: dict[str, object]
    losses: list[float]


class Turn(msgspec.Struct, frozen=True):
    """One message of a chat."""

    role: Literal["system", "user", "assistant"]
    content: str


class Chat(msgspec.Struct, frozen=True):
    """One line of a file of chats; other keys are ignored."""

    messages: tuple[Turn, ...]


def distil(reference: ReferenceModel, task: Task, prompts: list[str], answer_tokens: int) -> list[Example]:
    """Rewrite the base model's own greedy answers by the task's rule; leave out what the rule does not fit."""
    answers = answer_greedily(reference, prompts, answer_tokens)
    examples = []
    for prompt, (answer, finished) in zip(prompts, answers, strict=True):
        learnt = task.rewrite(answer)
        if task.holds(learnt, True):
            examples.append(Example(({"role": "user", "content": prompt},), learnt, finished or task.closes))
    return examples


def read_chats(path: str | Path) -> list[Example]:
    """Chats that end with an answer: JSON Lines {"messages": [{"role", "content"}, …]}. Raises BadInput."""
    examples = []
    for number, chat in enumerate(read_records(path, Chat), start=1):
        if len(chat.messages) < 2 or chat.messages[-1].role != "assistant":
            raise BadInput(f"{path}: chat {number}", "no answer to learn", "messages that end with role assistant")
        context = tuple({"role": turn.role, "content": turn.content} for turn in chat.messages[:-1])
        examples.append(Example(context, chat.messages[-1].content))
    if not examples:
        raise BadInput(str(path), "no chat", "at least one line with messages")
    return examples


def train_adapter(
    reference: ReferenceModel, examples: list[Example], plan: TrainingPlan, on_step: Callable[[int], None]
) -> TrainedAdapter:
    """Train a LoRA on the answers and return its tensors in bfloat16; the reference model is left as it was.

    `on_step` is called with 1 after each optimizer step. Raises Unavailable without PEFT.
    """
    peft = require("peft")

    torch.manual_seed(plan.seed)
    config = peft.LoraConfig(
        r=plan.rank,
        lora_alpha=2 * plan.rank,
        target_modules=sorted(plan.targets),
        task_type="CAUSAL_LM",
        base_model_name_or_path=reference.name,
    )
    wrapped = peft.get_peft_model(reference.model, config)
    try:
        losses = _optimize(wrapped, _tokenized(reference, examples, plan), plan, on_step)
        tensors = {
            name: tensor.detach().to(torch.bfloat16).contiguous()
            for name, tensor in sorted(peft.get_peft_model_state_dict(wrapped, save_embedding_layers=False).items())
        }
    finally:
        wrapped.unload()
        reference.model.eval().requires_grad_(False)
    return TrainedAdapter(tensors, _plain_config(config), losses)


def _plain_config(config: Any) -> dict[str, object]:  # noqa: ANN401
    """The adapter's configuration as JSON values in a fixed order, sets sorted, as inference wants it."""
    values = config.to_dict() | {"inference_mode": True}
    return {
        key: sorted(value) if isinstance(value, set | frozenset) else value for key, value in sorted(values.items())
    }


def _tokenized(reference: ReferenceModel, examples: list[Example], plan: TrainingPlan) -> list[tuple[list[int], int]]:
    """Per example its token ids and how many of them are context."""
    rows = []
    for example in examples:
        context = chat_ids(reference.tokenizer, list(example.context))
        answer = list(reference.tokenizer(example.answer, add_special_tokens=False)["input_ids"])
        if example.whole and len(answer) < plan.answer_tokens:
            answer.append(reference.tokenizer.eos_token_id)
        rows.append((context + answer[: plan.answer_tokens], len(context)))
    return rows


def _optimize(
    wrapped: Any,  # noqa: ANN401
    rows: list[tuple[list[int], int]],
    plan: TrainingPlan,
    on_step: Callable[[int], None],
) -> list[float]:
    """AdamW with a short warm-up and a linear fall to zero; returns the loss of every step."""
    steps = plan.steps_for(len(rows))
    trainable = [parameter for parameter in wrapped.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=plan.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / WARMUP_STEPS, (steps - step) / steps)
    )
    batches, losses = _batches(rows, plan.seed), []
    wrapped.train()
    for _ in range(steps):
        loss = _answer_loss(wrapped, next(batches))
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))
        on_step(1)
    return losses


def _batches(rows: list[tuple[list[int], int]], seed: int) -> Iterator[list[tuple[list[int], int]]]:
    """Batches without end, every pass in its own random order."""
    order = random.Random(seed)
    waiting: list[tuple[list[int], int]] = []
    while True:
        while len(waiting) < BATCH:
            waiting += order.sample(rows, len(rows))
        yield waiting[:BATCH]
        waiting = waiting[BATCH:]


def _answer_loss(wrapped: Any, batch: list[tuple[list[int], int]]) -> Tensor:  # noqa: ANN401
    """Mean cross-entropy of the answer tokens; logits are computed for the answers' positions alone."""
    longest = max(len(ids) for ids, _ in batch)
    ids = torch.zeros(len(batch), longest, dtype=torch.long)
    labels = torch.full_like(ids, IGNORED)
    for row, (tokens, context) in enumerate(batch):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        labels[row, context : len(tokens)] = torch.tensor(tokens[context:])
    # rows are padded on the right, so causal attention hides the padding from every answer token
    hidden = wrapped.base_model.model.model(input_ids=ids).last_hidden_state[:, :-1]
    wanted = labels[:, 1:]
    chosen = wanted != IGNORED
    logits = wrapped.base_model.model.lm_head(hidden[chosen]).float()
    return torch.nn.functional.cross_entropy(logits, wanted[chosen])
