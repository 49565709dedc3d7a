"""A decoder-only transformer over flat tokens: llama, qwen2 and qwen3 as one forward pass.

All tokens of a step stand in one row-major batch [T, hidden], whatever request or phase they belong to; only
attention looks at sequences, through the step's `AttentionPlan`. Knows nothing of requests, files or scheduling.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from llmsys.engine.linear import Linear
from llmsys.engine.ops import choose_ops
from llmsys.engine.rope import RotaryTable

__all__ = ["ARCHITECTURES", "Attend", "Decoder", "Layer", "LowRank", "ModelConfig"]

ARCHITECTURES = ("llama", "qwen2", "qwen3")
"""What the forward pass computes: llama, with bias on q, k, v (qwen2), with norms of q and k heads (qwen3)."""


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The shape of a model. Sizes count elements; `max_len` counts tokens."""

    architecture: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    vocab: int
    rms_eps: float
    rope_theta: float
    max_len: int
    rope_scaling: tuple[tuple[str, float | str], ...] = ()

    @property
    def q_width(self) -> int:
        """Columns of all query heads."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Columns of all key heads, or of all value heads."""
        return self.kv_heads * self.head_dim


@dataclass(frozen=True, slots=True)
class Layer:
    """One block's weights, fused as they are used: q, k, v in one matrix, gate and up in one.

    `qkv` maps hidden to q_width + 2 kv_width columns, `gate_up` to 2 mlp columns; norms are [hidden], those of heads
    [head_dim].
    """

    attention_norm: Tensor
    qkv: Linear
    o: Linear
    mlp_norm: Tensor
    gate_up: Linear
    down: Linear
    q_norm: Tensor | None = None
    k_norm: Tensor | None = None


class LowRank(Protocol):
    """What a step adds to each projection: the segmented LoRA of the tokens' adapters."""

    def add(self, y: Tensor, x: Tensor, layer: int, group: str) -> Tensor:
        """Return `y` with the adapters' part of projection `group` (qkv, o, gate_up, down) added in place."""
        ...


Attend = Callable[[int, Tensor, Tensor], Tensor]
"""(layer, qk [T, heads + kv_heads, D] unrotated, v [T, kv_heads, D]) -> [T, q_width]; also writes the cache."""


class Decoder:
    """The weights and the forward pass; stateless between calls."""

    def __init__(
        self, config: ModelConfig, *, embedding: Tensor, layers: Sequence[Layer], norm: Tensor, head: Linear
    ) -> None:
        self.config = config
        self.embedding = embedding
        self.layers = tuple(layers)
        self.norm = norm
        self.head = head
        self.rotary = RotaryTable(config, dtype=embedding.dtype, device=embedding.device)
        self.ops = choose_ops(embedding.device, embedding.dtype)

    @property
    def dtype(self) -> torch.dtype:
        """The number format of activations."""
        return self.embedding.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embedding.device

    def projection(self, layer: int, group: str) -> Linear:
        """The fused projection `group` (qkv, o, gate_up, down) of a layer."""
        found: Linear = getattr(self.layers[layer], group)
        return found

    def hidden_states(self, ids: Tensor, attend: Attend, lora: LowRank | None) -> Tensor:
        """Run every block over the flat tokens: ids [T] int64 to [T, hidden], not yet normalised."""
        config, ops = self.config, self.ops
        tokens, heads = ids.shape[0], config.heads + config.kv_heads
        x = F.embedding(ids, self.embedding)
        for index, layer in enumerate(self.layers):
            h = ops.rms_norm(x, layer.attention_norm, config.rms_eps)
            qkv = _project(layer.qkv, h, lora, index, "qkv")
            qk = qkv[:, : heads * config.head_dim].view(tokens, heads, config.head_dim)
            v = qkv[:, heads * config.head_dim :].view(tokens, config.kv_heads, config.head_dim)
            mixed = attend(index, _head_norm(qk, layer, config), v)
            x = x.add_(_project(layer.o, mixed, lora, index, "o"))
            h = ops.rms_norm(x, layer.mlp_norm, config.rms_eps)
            h = ops.silu_mul(_project(layer.gate_up, h, lora, index, "gate_up"))
            x = x.add_(_project(layer.down, h, lora, index, "down"))
        return x

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of the next token: hidden [n, hidden] to [n, vocab] float32."""
        h = self.ops.rms_norm(hidden, self.norm, self.config.rms_eps)
        return self.head(h).float()


def _project(weight: Linear, x: Tensor, lora: LowRank | None, layer: int, group: str) -> Tensor:
    y = weight(x)
    return y if lora is None else lora.add(y, x, layer, group)


def _head_norm(qk: Tensor, layer: Layer, config: ModelConfig) -> Tensor:
    """Normalise each query and key head by itself (qwen3); other architectures pass through."""
    if layer.q_norm is None or layer.k_norm is None:
        return qk
    q = F.rms_norm(qk[:, : config.heads], (config.head_dim,), layer.q_norm, config.rms_eps)
    k = F.rms_norm(qk[:, config.heads :], (config.head_dim,), layer.k_norm, config.rms_eps)
    return torch.cat((q, k), dim=1)
