"""Attention of one step over row-shaped caches: prompt chunks one by one, decoding rows in dense runs.

Decoding folds the queries that share a key head into matrix rows, [M, KV, H/KV, D] @ [M, KV, D, T], with a float32
softmax; a fused attention call is several times slower for one query per row on a CPU. Knows nothing of requests.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from llmsys.engine.kv_store import RowKV

__all__ = ["AttentionPlan", "DecodeRun", "PromptChunk", "attend", "plan_runs"]

BRIDGED_TOKENS = 2048
"""Idle tokens that a run may read along: about what the fixed cost of one more batched product would read."""


@dataclass(frozen=True, slots=True)
class PromptChunk:
    """Tokens first..first+count of the flat batch are tokens start..start+count of the sequence in `row`."""

    row: int
    first: int
    start: int
    count: int


@dataclass(frozen=True, slots=True)
class DecodeRun:
    """Rows row..row+M of which some or all decode one token; `tokens` are these rows' places in the batch.

    `mask` is [M, 1, 1, T] float32: 0 up to and including the new token, -inf beyond. `places` are the decoding rows'
    places among the M, None if all of them decode.
    """

    row: int
    tokens: Tensor
    mask: Tensor
    width: int
    places: Tensor | None


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """Who attends where in this step; `decode_rows` and `decode_positions` say where new keys go."""

    chunks: tuple[PromptChunk, ...]
    runs: tuple[DecodeRun, ...]
    decode_tokens: Tensor
    decode_rows: Tensor
    decode_positions: Tensor


def plan_runs(rows: Sequence[int], lengths: Sequence[int], tokens: Sequence[int]) -> tuple[DecodeRun, ...]:
    """Cut decoding rows into runs of rows whose lengths lie in one bucket of 128 * 2^i.

    `lengths` count the new token. A run's width is its longest row, so no row reads more than twice its own length.
    Idle rows between two decoding ones are computed along where that reads no more than BRIDGED_TOKENS.
    """
    order = sorted(range(len(rows)), key=lambda i: rows[i])
    groups: list[list[int]] = []
    for i in order:
        previous = groups[-1][-1] if groups else None
        if previous is None or not _joins(rows[i] - rows[previous] - 1, lengths[previous], lengths[i]):
            groups.append([])
        groups[-1].append(i)
    return tuple(_run(group, rows, lengths, tokens) for group in groups)


def _joins(idle_rows: int, length: int, next_length: int) -> bool:
    return _bucket(length) == _bucket(next_length) and idle_rows * max(length, next_length) <= BRIDGED_TOKENS


def _bucket(length: int) -> int:
    return max(0, (length - 1) // 128).bit_length()


def _run(group: list[int], rows: Sequence[int], lengths: Sequence[int], tokens: Sequence[int]) -> DecodeRun:
    first, count = rows[group[0]], rows[group[-1]] - rows[group[0]] + 1
    width = max(lengths[i] for i in group)
    places = torch.tensor([rows[i] - first for i in group])
    own = torch.full((count,), width)
    own[places] = torch.tensor([lengths[i] for i in group])
    mask = torch.zeros(count, width).masked_fill_(torch.arange(width)[None, :] >= own[:, None], -torch.inf)
    dense = count == len(group)
    return DecodeRun(
        first, torch.tensor([tokens[i] for i in group]), mask[:, None, None, :], width, None if dense else places
    )


def attend(plan: AttentionPlan, store: RowKV, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Write the step's keys and values, then mix values for every token.

    Shapes: q [T, heads, D], k and v [T, kv_heads, D]; returns [T, heads * D] in q's dtype.
    """
    keys, values = store.keys[layer], store.values[layer]
    mixed = torch.empty(q.shape[0], q.shape[1] * q.shape[2], dtype=q.dtype)
    for chunk in plan.chunks:
        here, end = slice(chunk.first, chunk.first + chunk.count), chunk.start + chunk.count
        keys[chunk.row, :, chunk.start : end] = k[here].transpose(0, 1)
        values[chunk.row, :, chunk.start : end] = v[here].transpose(0, 1)
        mixed[here] = _prompt(chunk, keys, values, q[here])
    if plan.runs:
        keys[plan.decode_rows, :, plan.decode_positions] = k[plan.decode_tokens].to(keys.dtype)
        values[plan.decode_rows, :, plan.decode_positions] = v[plan.decode_tokens].to(values.dtype)
    for run in plan.runs:
        mixed[run.tokens] = _decode(run, keys, values, q[run.tokens])
    return mixed


def _prompt(chunk: PromptChunk, keys: Tensor, values: Tensor, q: Tensor) -> Tensor:
    """Attention of one prompt chunk to its own prefix: q [count, heads, D] to [count, heads * D]."""
    end = chunk.start + chunk.count
    group = q.shape[1] // keys.shape[1]
    own_keys = keys[chunk.row, :, :end].to(q.dtype).repeat_interleave(group, dim=0)
    own_values = values[chunk.row, :, :end].to(q.dtype).repeat_interleave(group, dim=0)
    mask = None
    if chunk.start > 0:
        mask = torch.ones(chunk.count, end, dtype=torch.bool).tril_(diagonal=chunk.start)
    out = F.scaled_dot_product_attention(
        q.transpose(0, 1)[None], own_keys[None], own_values[None], attn_mask=mask, is_causal=mask is None
    )
    return out[0].transpose(0, 1).reshape(chunk.count, -1)


def _decode(run: DecodeRun, keys: Tensor, values: Tensor, q: Tensor) -> Tensor:
    """One new query per decoding row against its cached keys: q [n, heads, D] to [n, heads * D]."""
    heads, dim = q.shape[1:]
    rows, kv_heads = run.mask.shape[0], keys.shape[1]
    own_keys = keys[run.row : run.row + rows, :, : run.width]
    own_values = values[run.row : run.row + rows, :, : run.width]
    if run.places is not None:
        q = q.new_zeros(rows, heads, dim).index_copy_(0, run.places, q)
    folded = q.view(rows, kv_heads, heads // kv_heads, dim).to(keys.dtype)
    scores = torch.matmul(folded * dim**-0.5, own_keys.transpose(2, 3)).float().add_(run.mask)
    weights = torch.softmax(scores, dim=-1).to(values.dtype)
    mixed = torch.matmul(weights, own_values).reshape(rows, heads * dim).to(q.dtype)
    return mixed if run.places is None else mixed[run.places]
