"""Peers of the bench that run here: transformers' `generate`, plain and with prompt lookup, on the same weights.

Knows nothing of plans.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

from llmsys.errors import Unavailable
from llmsys.sgd_decode.backends import Message

__all__ = ["PEERS", "Peer", "load_peers"]

Peer = Callable[[Sequence[Message], int], int]
"""Writes an answer of so many tokens to a conversation; returns how many it wrote."""

PEERS: Mapping[str, Mapping[str, object]] = {
    "transformers generate": {},
    "transformers prompt lookup": {"prompt_lookup_num_tokens": 4},
}
"""The options of `generate` by the peer's name."""


def load_peers(model: str) -> dict[str, Peer]:
    """All PEERS on one model: "embedded", a directory, or a GGUF file, in float32. Raises Unavailable without it."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from llmsys.gpu import embedded_model

    path = embedded_model() if model == "embedded" else Path(model)
    if path is None or not path.exists():
        raise Unavailable(f"no model file for peers at {model}", "name a model directory or a .gguf file")
    root, place = (path.parent, {"gguf_file": path.name}) if path.suffix == ".gguf" else (path, {})
    with redirect_stderr(StringIO()):  # the GGUF reader's progress bar has no switch
        loaded = AutoModelForCausalLM.from_pretrained(root, dtype=torch.float32, **place).eval()
    tokenizer = AutoTokenizer.from_pretrained(root, **place)

    def peer(options: Mapping[str, object]) -> Peer:
        return lambda messages, tokens: _generate(loaded, tokenizer, messages, tokens, options)

    return {name: peer(options) for name, options in PEERS.items()}


def _generate(
    model: Any,  # noqa: ANN401
    tokenizer: Any,  # noqa: ANN401
    messages: Sequence[Message],
    tokens: int,
    options: Mapping[str, object],
) -> int:
    import torch

    text = tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)
    batch = tokenizer(text, add_special_tokens=False, return_tensors="pt")
    with torch.inference_mode():
        out = model.generate(**batch, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, **options)
    return int(out.shape[1] - batch["input_ids"].shape[1])
