"""Fold an adapter into its base model: W + s·B·A for every adapted projection, its rows rescaled with DoRA.

Reads the adapter through the engine's checks and the base through transformers, without PEFT. Knows nothing of serving.
"""

from pathlib import Path

import torch

from llmsys.engine.adapter_files import AdapterFile, read_adapter
from llmsys.engine.dora import row_gain
from llmsys.engine.loader import read_config
from llmsys.gpu import find_model
from llmsys.serve_lora.adapter_check import RANK_MAX
from llmsys.serve_lora.adapter_files import new_directory
from llmsys.serve_lora.reference_model import load_reference

__all__ = ["merge_adapter"]


def merge_adapter(adapter: Path, destination: Path, *, model: str, dtype: torch.dtype) -> AdapterFile:
    """Write the merged model as transformers reads it, and return the adapter that went in.

    The sum is taken in float32 and rounded once to `dtype`. Raises AdapterError for an adapter that does not fit,
    UsageFault where `destination` exists.
    """
    file = read_adapter(adapter, read_config(find_model(model)), rank_max=RANK_MAX)
    with new_directory(destination) as directory:
        reference = load_reference(model, torch.float32)
        add_adapter(reference.model, file)
        reference.model.to(dtype).save_pretrained(directory)
        reference.tokenizer.save_pretrained(directory)
    return file


@torch.no_grad()
def add_adapter(model: torch.nn.Module, file: AdapterFile) -> None:
    """Add every factor of an adapter to the weights of a transformers decoder, in place."""
    weights = dict(model.named_parameters())
    for factor in file.factors:
        block = "mlp" if factor.target in ("gate_proj", "up_proj", "down_proj") else "self_attn"
        weight = weights[f"model.layers.{factor.layer}.{block}.{factor.target}.weight"]
        weight.add_(factor.b @ factor.a)
        if factor.magnitude is not None:
            weight.mul_(row_gain(factor.magnitude, weight)[:, None])
