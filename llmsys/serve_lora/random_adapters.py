"""Adapters whose weights are random: what a bench or a load test serves where the text does not matter.

One set of files under as many names as are wanted: an engine loads each name into a slot of its own, so that memory and
its traffic are those of as many adapters. Knows nothing of training.
"""

from pathlib import Path

import torch

from llmsys.engine.factors import GROUPS, group_widths
from llmsys.engine.model import ModelConfig
from llmsys.serve_lora.adapter_files import TrainingRecord, write_adapter

__all__ = ["write_random_adapter"]

SIZE = 0.02


def write_random_adapter(path: Path, config: ModelConfig, *, rank: int, seed: int = 0) -> Path:
    """Write an adapter of all seven projections of every layer, bfloat16, and return its directory.

    Small enough that logits stay finite. Raises UsageFault where something is at `path`.
    """
    random = torch.Generator().manual_seed(seed)
    tensors = {}
    for group, (width, outs) in group_widths(config).items():
        for target, out in zip(GROUPS[group], outs, strict=True):
            part = "self_attn" if group in ("qkv", "o") else "mlp"
            for layer in range(config.layers):
                name = f"base_model.model.model.layers.{layer}.{part}.{target}.lora_{{}}.weight"
                for half, shape in (("A", (rank, width)), ("B", (out, rank))):
                    drawn = torch.randn(shape, generator=random) * SIZE
                    tensors[name.format(half)] = drawn.to(torch.bfloat16)
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": rank,
        "target_modules": [target for targets in GROUPS.values() for target in targets],
    }
    write_adapter(path, tensors, settings, TrainingRecord(task="random", seed=seed))
    return path
