"""A decoder whose projections stay coded in memory: each is decoded when it runs, and forgotten.

Knows how the engine fuses projections (q, k, v in one; gate, up in one); knows no codec.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from llmsys.compress.blob import Blob
from llmsys.engine.linear import Linear
from llmsys.engine.model import Decoder, Layer

if TYPE_CHECKING:
    from llmsys.compress.codec import CompressedTensors

__all__ = ["CodedLinear", "keep_coded"]

FUSED = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "o": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}


class CodedLinear:
    """y = x Wᵀ + b for W [out, in] that is decoded from its blobs at every call."""

    def __init__(self, blobs: list[Blob], bias: Tensor | None, dtype: torch.dtype) -> None:
        self._blobs, self.bias, self.dtype = blobs, bias, dtype
        self.out_features = sum(blob.shape[0] for blob in blobs)
        self.in_features = blobs[0].shape[1]

    def __call__(self, x: Tensor) -> Tensor:
        """Multiply rows: x [n, in] to [n, out], as `engine.linear.Linear` does with the decoded matrix."""
        return Linear(self.dense(), self.bias, pack=False)(x)

    def dense(self) -> Tensor:
        """The matrix, [out, in]."""
        from llmsys.compress.codec import decoded_tensor

        return torch.cat([decoded_tensor(blob) for blob in self._blobs]).to(self.dtype)

    @property
    def stored_bytes(self) -> int:
        """Memory that the matrix takes between calls."""
        return sum(len(blob) for blob in self._blobs)


def keep_coded(decoder: Decoder, tensors: "CompressedTensors") -> Decoder:
    """The same decoder with every projection kept as the bytes of its file."""
    layers = [_coded(layer, f"model.layers.{at}.", tensors) for at, layer in enumerate(decoder.layers)]
    return Decoder(decoder.config, embedding=decoder.embedding, layers=layers, norm=decoder.norm, head=decoder.head)


def _coded(layer: Layer, prefix: str, tensors: "CompressedTensors") -> Layer:
    fields: dict[str, Any] = {}
    for name, parts in FUSED.items():
        plain: Linear = getattr(layer, name)
        blobs = [tensors.blob(f"{prefix}{part}.weight") for part in parts]
        fields[name] = cast("Linear", CodedLinear(blobs, plain.bias, plain.dtype))
    return replace(layer, **fields)
