"""Attention of one step over row-shaped caches: prompt chunks one by one, all decoding rows together.

Knows nothing of requests.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from llmsys.engine.kv_store import RowKV, Span
from llmsys.engine.ops import DecodeRows, Ops
from llmsys.engine.rope import RotaryTable

__all__ = ["AttentionPlan", "PromptChunk", "RowCache", "StepAttention", "attend_prompt"]


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


class RowCache:
    """Keys and values in rows, and how a step attends to them: the `KVStore` of a CPU.

    token_by_token: prompts attend as decoding does, one token after the other, so that a token's result does not depend
    on how its prompt was cut.
    """

    def __init__(self, store: RowKV, *, token_by_token: bool = False) -> None:
        self._store = store
        self._token_by_token = token_by_token

    def order(self, sequence_id: int) -> int:
        """As the protocol says: by row, so that memory is read in its order."""
        return self._store.row(sequence_id)

    def release(self, sequence_id: int) -> None:
        """As the protocol says."""
        self._store.release(sequence_id)

    def copy_prefix(self, source_id: int, target_id: int, tokens: int) -> None:
        """As the protocol says."""
        self._store.copy_prefix(source_id, target_id, tokens)

    def attend(self, spans: Sequence[Span], table: RotaryTable, ops: Ops) -> "StepAttention":
        """As the protocol says."""
        return StepAttention(self._plan(spans), self._store, table, ops)

    def _plan(self, spans: Iterable[Span]) -> AttentionPlan:
        chunks, waves = [], dict[int, list[tuple[int, int, int]]]()
        for span in spans:
            row = self._store.row(span.sequence_id)
            self._store.filled(span.sequence_id, span.end)
            if self._token_by_token or span.decodes:
                for i in range(span.count):
                    waves.setdefault(i, []).append((span.first + i, row, span.start + i + 1))
            else:
                chunks.append(PromptChunk(row, span.first, span.start, span.count))
        decodes = tuple(DecodeRows.of(*zip(*wave, strict=True)) for wave in waves.values())
        return AttentionPlan(tuple(chunks), decodes)


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
            end = chunk.start + chunk.count
            own = keys[chunk.row, :, :end], values[chunk.row, :, :end]
            mixed[here] = attend_prompt(rotated[:, :heads], *own, start=chunk.start)
        for wave in self._plan.waves:
            self._ops.decode(wave, qk, v, self._table, cache, mixed)
        return mixed


def attend_prompt(q: Tensor, keys: Tensor, values: Tensor, *, start: int) -> Tensor:
    """Attention of a prompt's tokens start..end to the tokens before them and to themselves.

    Shapes: q [end - start, heads, D] rotated, keys and values [kv_heads, end, D]; returns [end - start, heads * D].
    """
    count, end = q.shape[0], keys.shape[1]
    group = q.shape[1] // keys.shape[0]
    mask = None
    if start > 0:
        mask = torch.ones(count, end, dtype=torch.bool, device=q.device).tril_(diagonal=start)
    out = F.scaled_dot_product_attention(
        q.transpose(0, 1)[None],
        keys.repeat_interleave(group, dim=0)[None],
        values.repeat_interleave(group, dim=0)[None],
        attn_mask=mask,
        is_causal=mask is None,
    )
    return out[0].transpose(0, 1).reshape(count, -1)
