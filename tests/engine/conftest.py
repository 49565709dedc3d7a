"""Models that many engine tests share: the embedded SmolLM2 in our engine and in transformers, loaded once a worker."""

import json
import os
from pathlib import Path

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")

FIXTURES = Path(__file__).parents[2] / "fixtures"


@pytest.fixture(scope="session")
def smollm2():
    """The embedded model in float32."""
    from llmsys.engine.loader import load_model

    return load_model("smollm2", device=torch.device("cpu"), dtype=torch.float32)


@pytest.fixture(scope="session")
def reference():
    """transformers' own SmolLM2 in float32, read from the same file."""
    from transformers import AutoModelForCausalLM

    from llmsys.engine.loader import find_model

    path = find_model("smollm2")
    return AutoModelForCausalLM.from_pretrained(str(path.parent), gguf_file=path.name, dtype=torch.float32).eval()


@pytest.fixture(scope="session")
def prompts(smollm2):
    """Forty real questions as chat prompts, token ids."""
    lines = (FIXTURES / "vicuna40.jsonl").read_text(encoding="utf-8").splitlines()
    questions = [json.loads(line)["question"] for line in lines]
    return [smollm2.tokenizer.apply_chat([{"role": "user", "content": text}]) for text in questions]
