"""A small decoder with mixtures of experts, whose initial weights are a function of the seed and of their names.

RMSNorm, rotary positions, causal attention, no biases: with `swiglu` and `norm_topk` it is Mixtral's block. Every
worker holds all of it but the experts; each expert can be made anywhere, alone. Knows no optimizer and no plan.
"""

import math
from collections.abc import Iterable
from hashlib import blake2b

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmsys.moe_train.train.experts import ExpertBank
from llmsys.moe_train.train.mixture import MoELayer, StepContext
from llmsys.moe_train.train.shape import ModelShape

__all__ = ["EPSILON", "ROPE_BASE", "MoEModel", "expert_name", "fresh_expert"]

ROPE_BASE = 10_000.0
EPSILON = 1e-5


class _Attention(nn.Module):
    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.q, self.k, self.v, self.o = (nn.Linear(shape.d_model, shape.d_model, bias=False) for _ in range(4))

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        batch, length, width = x.shape
        query, key, value = (
            part(x).view(batch, length, self.heads, width // self.heads).transpose(1, 2)
            for part in (self.q, self.k, self.v)
        )
        query, key = (_rotate(one, cosine, sine) for one in (query, key))
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        out: Tensor = self.o(mixed.transpose(1, 2).reshape(batch, length, width))
        return out


class _FeedForward(nn.Module):
    """The dense part of layers that are no mixture: one expert that every token takes."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.bank = ExpertBank(shape)
        self.bank.hold({0: {name: torch.zeros(rows, columns) for name, rows, columns in shape.matrices}})

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bank(x, [len(x)])
        return out


class _Block(nn.Module):
    def __init__(self, shape: ModelShape, layer: int, *, mixture: bool) -> None:
        super().__init__()
        self.layer = layer
        self.before_attention = nn.RMSNorm(shape.d_model, eps=EPSILON)
        self.attention = _Attention(shape)
        self.before_feed_forward = nn.RMSNorm(shape.d_model, eps=EPSILON)
        self.mixture = MoELayer(shape) if mixture else None
        self.feed_forward = None if mixture else _FeedForward(shape)

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor, context: StepContext) -> Tensor:
        x = x + context.drop(self.attention(self.before_attention(x), cosine, sine), 2 * self.layer)
        rows = self.before_feed_forward(x).reshape(-1, x.shape[-1])
        if self.mixture is not None:
            out = self.mixture(rows, context)
        else:
            assert self.feed_forward is not None
            out = self.feed_forward(rows)
        found: Tensor = x + context.drop(out.view_as(x), 2 * self.layer + 1)
        return found


class MoEModel(nn.Module):
    """Tokens to logits; its experts come by `bank(layer).hold`."""

    def __init__(self, shape: ModelShape, seed: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocab, shape.d_model)
        mixtures = set(shape.mixtures)
        self.blocks = nn.ModuleList(_Block(shape, layer, mixture=layer in mixtures) for layer in range(shape.layers))
        self.last_norm = nn.RMSNorm(shape.d_model, eps=EPSILON)
        self.head = nn.Linear(shape.d_model, shape.vocab, bias=False)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if parameter.dim() > 1:
                    parameter.copy_(fresh_matrix(name, tuple(parameter.shape), seed))
        self.to(dtype)

    def banks(self) -> list[ExpertBank]:
        """The experts held, one bank a mixture."""
        return [self._mixture(layer).bank for layer in self.shape.mixtures]

    def dense(self) -> dict[str, nn.Parameter]:
        """Everything that all workers hold, by name in a fixed order."""
        held = {id(matrix) for bank in self.banks() for matrix in bank.parameters()}
        return {name: one for name, one in self.named_parameters() if id(one) not in held}

    def forward(self, tokens: Tensor, context: StepContext) -> Tensor:
        """Logits [n, length, vocab] of tokens [n, length]; what the mixtures leave is in `context`."""
        x = self.embedding(tokens)
        cosine, sine = _rotations(tokens.shape[1], self.shape.d_model // self.shape.heads, x.dtype)
        for block in self.blocks:
            x = block(x, cosine, sine, context)
        out: Tensor = self.head(self.last_norm(x))
        return out

    def _mixture(self, layer: int) -> MoELayer:
        found = self.blocks[layer].mixture
        assert isinstance(found, MoELayer)
        return found


def expert_name(mixture: int, expert: int, matrix: str) -> str:
    """The logical key of one matrix: the same on every worker and in every checkpoint."""
    return f"mixtures.{mixture}.experts.{expert}.{matrix}"


def fresh_expert(shape: ModelShape, mixture: int, expert: int, seed: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """An expert before its first step."""
    return {
        name: fresh_matrix(expert_name(mixture, expert, name), (columns, rows), seed).t().to(dtype).contiguous()
        for name, rows, columns in shape.matrices
    }


def fresh_matrix(name: str, size: Iterable[int], seed: int) -> Tensor:
    """Normal numbers of deviation 1/√(last dimension), a function of the name and the seed."""
    *_, width = size = tuple(size)
    digest = blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
    return torch.randn(size, generator=generator, dtype=torch.float64) / math.sqrt(width)


def _rotations(length: int, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    frequency = ROPE_BASE ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angle = torch.outer(torch.arange(length, dtype=torch.float64), frequency)
    angle = torch.cat([angle, angle], dim=-1)
    return angle.cos().to(dtype), angle.sin().to(dtype)


def _rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    turned = torch.cat([-x[..., half:], x[..., :half]], dim=-1)
    return x * cosine + turned * sine
