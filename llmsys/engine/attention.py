"""Attention of one step over row-shaped caches: prompt chunks one by one, all decoding rows together.

Knows nothing of requests.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from llmsys.engine.kv_store import RowKV
from llmsys.engine.ops import DecodeRows, Ops
from llmsys.engine.rope import RotaryTable

__all__ = ["AttentionPlan", "PromptChunk", "StepAttention"]


@dataclass(frozen=True, slots=True)
class PromptChunk:
    """Tokens first..first+count of the flat batch are tokens start..start+count of the sequence in `row`."""

    row: int
    first: int
    start: int
    count: int


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """Who attends where in this step; `waves` of decoding rows come one after the other, each row once in each."""

    chunks: tuple[PromptChunk, ...]
    waves: tuple[DecodeRows, ...]


class StepAttention:
    """One step's attention, layer by layer; writes keys and values to the store."""

    def __init__(self, plan: AttentionPlan, store: RowKV, table: RotaryTable, ops: Ops) -> None:
        self._plan = plan
        self._store = store
        self._table = table
        self._ops = ops
        spans = [(chunk.start, chunk.start + chunk.count) for chunk in plan.chunks]
        self._angles = [table.at(torch.arange(*span, device=table.cos.device)) for span in spans]

    def __call__(self, layer: int, qk: Tensor, v: Tensor) -> Tensor:
        """Mix values for every token.

        Shapes: qk [T, heads + kv_heads, D] not yet rotated, v [T, kv_heads, D]; returns [T, heads * D] in qk's dtype.
        """
        cache = self._store.layer(layer)
        keys, values = cache
        heads = qk.shape[1] - keys.shape[1]
        mixed = torch.empty(qk.shape[0], heads * qk.shape[2], dtype=qk.dtype, device=qk.device)
        for chunk, angles in zip(self._plan.chunks, self._angles, strict=True):
            here, span = slice(chunk.first, chunk.first + chunk.count), slice(chunk.start, chunk.start + chunk.count)
            rotated = self._table.rotate(qk[here], *angles)
            keys[chunk.row, :, span] = rotated[:, heads:].transpose(0, 1)
            values[chunk.row, :, span] = v[here].transpose(0, 1)
            mixed[here] = _prompt(chunk, keys, values, rotated[:, :heads])
        for wave in self._plan.waves:
            self._ops.decode(wave, qk, v, self._table, cache, mixed)
        return mixed


def _prompt(chunk: PromptChunk, keys: Tensor, values: Tensor, q: Tensor) -> Tensor:
    """Attention of one prompt chunk to its own prefix: q [count, heads, D] to [count, heads * D]."""
    end = chunk.start + chunk.count
    group = q.shape[1] // keys.shape[1]
    own_keys = keys[chunk.row, :, :end].repeat_interleave(group, dim=0)
    own_values = values[chunk.row, :, :end].repeat_interleave(group, dim=0)
    mask = None
    if chunk.start > 0:
        mask = torch.ones(chunk.count, end, dtype=torch.bool).tril_(diagonal=chunk.start)
    out = F.scaled_dot_product_attention(
        q.transpose(0, 1)[None], own_keys[None], own_values[None], attn_mask=mask, is_causal=mask is None
    )
    return out[0].transpose(0, 1).reshape(chunk.count, -1)
