"""The uncompressed model of an evaluation, as the engine's decoder in float32."""

from pathlib import Path

import torch

from llmsys.engine.loader import load_decoder
from llmsys.engine.model import Decoder

__all__ = ["load_original"]


def load_original(path: Path) -> Decoder:
    """A model directory or GGUF file on the CPU. Raises ModelError for what is none."""
    return load_decoder(path, device=torch.device("cpu"), dtype=torch.float32)
