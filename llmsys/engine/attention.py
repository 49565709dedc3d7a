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

__all__ = ["AttentionPlan", "DecodeRun", "PromptChunk", "as_places", "attend", "plan_runs"]

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
    """`rows` rows from `row` on, M in all, some or all of which decode one token each, `tokens` in the batch.

    Places in order are a slice, so that nothing is gathered. `mask` is [M, 1, 1, T] float32: 0 up to and including the
    new token, -inf beyond; None where all rows are equally long. `decoding` are the decoding rows' places among the M,
    None if all of them decode.
    """

    row: int
    rows: int
    tokens: Tensor | slice
    mask: Tensor | None
    width: int
    decoding: Tensor | None


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """Who attends where in this step.

    New keys and values of the tokens at `decode_tokens` go to `decode_places`: [n * kv_heads] int64, counted in heads
    of one token over the whole arena, as `RowKV.places` gives them.
    """

    chunks: tuple[PromptChunk, ...]
    runs: tuple[DecodeRun, ...]
    decode_tokens: Tensor | slice
    decode_places: Tensor


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
    own = [width] * count
    for i in group:
        own[rows[i] - first] = lengths[i]
    return DecodeRun(
        row=first,
        rows=count,
        tokens=as_places([tokens[i] for i in group]),
        mask=_mask(own),
        width=width,
        decoding=None if count == len(group) else torch.tensor([rows[i] - first for i in group]),
    )


def as_places(places: Sequence[int]) -> Tensor | slice:
    """An index of rows: a slice for neighbours in order, which reads them where they are, a tensor for others."""
    if list(places) == list(range(places[0], places[0] + len(places))):
        return slice(places[0], places[0] + len(places))
    return torch.tensor(places)


def _mask(lengths: Sequence[int]) -> Tensor | None:
    width = max(lengths)
    if min(lengths) == width:
        return None
    beyond = torch.arange(width)[None, :] >= torch.tensor(lengths)[:, None]
    return torch.zeros(len(lengths), width).masked_fill_(beyond, -torch.inf)[:, None, None, :]


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
        _write(keys, plan, k)
        _write(values, plan, v)
    for run in plan.runs:
        mixed[run.tokens] = _decode(run, keys, values, q[run.tokens])
    return mixed


def _write(arena: Tensor, plan: AttentionPlan, new: Tensor) -> None:
    """Put one token per decoding row, new [T, kv_heads, D], where it belongs."""
    dim = new.shape[2]
    arena.view(-1, dim).index_copy_(0, plan.decode_places, new[plan.decode_tokens].to(arena.dtype).reshape(-1, dim))


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
    rows, kv_heads = run.rows, keys.shape[1]
    own_keys = keys[run.row : run.row + rows, :, : run.width]
    own_values = values[run.row : run.row + rows, :, : run.width]
    if run.decoding is not None:
        q = q.new_zeros(rows, heads, dim).index_copy_(0, run.decoding, q)
    folded = q.view(rows, kv_heads, heads // kv_heads, dim).to(keys.dtype)
    scores = torch.matmul(folded.mul(dim**-0.5), own_keys.transpose(2, 3)).float()
    if run.mask is not None:
        scores.add_(run.mask)
    weights = torch.softmax(scores, dim=-1).to(values.dtype)
    mixed = torch.matmul(weights, own_values).reshape(rows, heads * dim).to(q.dtype)
    return mixed if run.decoding is None else mixed[run.decoding]
