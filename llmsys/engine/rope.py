"""Rotary position embedding: half-split rotation as transformers applies it, with llama3 and linear scaling.

Rotates queries and keys; knows nothing of attention.
"""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from llmsys.engine.model import ModelConfig

__all__ = ["SCALINGS", "SCALING_NUMBERS", "RotaryTable", "inverse_frequencies"]

SCALING_NUMBERS = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}
"""The numbers that each kind of scaling needs, as a transformers config names them."""
SCALINGS = tuple(SCALING_NUMBERS)


def inverse_frequencies(theta: float, head_dim: int, scaling: dict[str, float | str]) -> Tensor:
    """Angle per position of each rotated pair: theta^(-2i/head_dim), stretched as `scaling` says.

    Returns [head_dim / 2] float32. Raises ValueError for a scaling that is not in SCALINGS.
    """
    exponents = torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim
    frequencies = 1.0 / (theta**exponents)
    kind = scaling.get("rope_type", "default")
    if kind not in SCALINGS:
        raise ValueError(f"rope scaling {kind!r} is not one of {', '.join(SCALINGS)}")
    if kind == "default":
        return frequencies
    factor = float(scaling["factor"])
    if kind == "linear":
        return frequencies / factor
    return _llama3(frequencies, factor, scaling)


def _llama3(frequencies: Tensor, factor: float, scaling: dict[str, float | str]) -> Tensor:
    """Keep short wavelengths, stretch long ones by `factor`, blend between the two bounds."""
    low, high = float(scaling["low_freq_factor"]), float(scaling["high_freq_factor"])
    trained = float(scaling["original_max_position_embeddings"])
    wavelengths = 2 * math.pi / frequencies
    blend = (trained / wavelengths - low) / (high - low)
    blended = (1 - blend) * frequencies / factor + blend * frequencies
    stretched = torch.where(wavelengths > trained / low, frequencies / factor, frequencies)
    between = (wavelengths <= trained / low) & (wavelengths >= trained / high)
    return torch.where(between, blended, stretched)


class RotaryTable:
    """cos and sin of every position up to the model's max_len, [max_len, head_dim] in the activations' dtype.

    The sign of the rotated first half is folded into `sin`, so that rotating needs no negation.
    """

    def __init__(self, config: "ModelConfig", *, dtype: torch.dtype, device: torch.device) -> None:
        frequencies = inverse_frequencies(config.rope_theta, config.head_dim, dict(config.rope_scaling))
        angles = torch.arange(config.max_len).float()[:, None] * frequencies[None, :]
        self._half = config.head_dim // 2
        self.cos = torch.cat((angles.cos(), angles.cos()), dim=-1).to(dtype=dtype, device=device)
        self.sin = torch.cat((-angles.sin(), angles.sin()), dim=-1).to(dtype=dtype, device=device)

    def at(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin rows of positions [T], each [T, 1, head_dim]."""
        return self.cos[positions].unsqueeze(1), self.sin[positions].unsqueeze(1)

    def rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Rotate the halves of every head: x [T, heads, head_dim] to the same shape, newly allocated."""
        return torch.addcmul(x * cos, x.roll(self._half, dims=-1), sin)
