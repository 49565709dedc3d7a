"""One new token per sequence attends to its cached ones, read through a block table: flash-decoding.

o[i, h] = Σ_t softmax_t(scale · q[i, h] · k[i, t, g]) v[i, t, g] over t < contexts[i], g = h // group the head's KV head
(Dao et al., "Flash-Decoding for long-context inference", 2023). The context is split over programs of SPLIT_TOKENS
tokens; each keeps a running maximum, sum and weighted value, and a second stage merges them in a fixed order. The query
heads of one KV head form the rows of `tl.dot`, padded to 16.

Bound: every cached key and value is read once, 2·KV·D·contexts elements per sequence, so memory bandwidth bounds it.
Splits depend on a token's place alone: a sequence gets the same bits in every batch.
The kernels have run under Triton's interpreter alone, on no GPU yet.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from llmsys.gpu.triton_mode import interpreting, next_power_of_2, runs_kernels

__all__ = ["paged_attention", "paged_attention_reference"]

SPLIT_TOKENS = 256
TILE_TOKENS = 64


def paged_attention_reference(q: Tensor, cache: Tensor, tables: Tensor, contexts: Tensor, *, scale: float) -> Tensor:
    """The definition of `paged_attention`, a loop over sequences in float32, or in float64 for float64 tensors."""
    group, block_tokens = q.shape[1] // cache.shape[2], cache.shape[3]
    exact = torch.float64 if q.dtype == torch.float64 else torch.float32
    out = torch.zeros_like(q)
    for row, context in enumerate(contexts.tolist()):
        blocks = tables[row, : triton.cdiv(context, block_tokens)].long()
        pages = cache[blocks].to(exact).permute(1, 2, 0, 3, 4).flatten(2, 3)[:, :, :context]  # [2, KV, context, D]
        keys, values = pages.repeat_interleave(group, dim=1)
        scores = torch.einsum("hd,htd->ht", q[row].to(exact), keys) * scale
        out[row] = torch.einsum("ht,htd->hd", scores.softmax(dim=-1), values).to(q.dtype)
    return out


@triton.jit  # type: ignore[untyped-decorator]
def _attend_kernel(  # type: ignore[no-untyped-def]
    q, cache, tables, contexts, partial, summary, scale, blocks, most_tokens, group, splits,
    q_row, q_head, q_dim, c_block, c_pair, c_head, c_token, c_dim, t_row, t_block,
    D: tl.constexpr, BLOCK_TOKENS: tl.constexpr, SPLIT: tl.constexpr, WIDEN: tl.constexpr,
    BLOCK_G: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    row, head, split = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    context = tl.minimum(tl.load(contexts + row), most_tokens)
    start = split * SPLIT
    if start >= context:
        return
    heads, dims = tl.arange(0, BLOCK_G), tl.arange(0, BLOCK_D)
    q_mask = (heads[:, None] < group) & (dims[None, :] < D)
    q_place = row * q_row + (head * group + heads[:, None]) * q_head + dims[None, :] * q_dim
    q_tile = tl.load(q + q_place, mask=q_mask, other=0.0)  # [BLOCK_G, BLOCK_D]
    peak = tl.full((BLOCK_G,), float("-inf"), dtype=tl.float32)
    total = tl.zeros((BLOCK_G,), dtype=tl.float32)
    acc = tl.zeros((BLOCK_G, BLOCK_D), dtype=tl.float32)
    for step in range(0, SPLIT, BLOCK_T):
        tokens = start + step + tl.arange(0, BLOCK_T)
        live = tokens < context
        page = tl.load(tables + row * t_row + (tokens // BLOCK_TOKENS) * t_block, mask=live, other=0).to(tl.int64)
        there = live & (page >= 0) & (page < blocks)
        place = page * c_block + head * c_head + (tokens % BLOCK_TOKENS) * c_token
        mask = there[:, None] & (dims[None, :] < D)
        keys = tl.load(cache + place[:, None] + dims[None, :] * c_dim, mask=mask, other=0.0)  # [BLOCK_T, BLOCK_D]
        values = tl.load(cache + c_pair + place[:, None] + dims[None, :] * c_dim, mask=mask, other=0.0)
        if WIDEN:
            scores = tl.dot(q_tile.to(tl.float32), tl.trans(keys.to(tl.float32)), input_precision="ieee") * scale
        else:
            scores = tl.dot(q_tile, tl.trans(keys)) * scale
        scores = tl.where(live[None, :], scores, float("-inf"))
        higher = tl.maximum(peak, tl.max(scores, axis=1))
        # a tile past the context is all -inf after the first has set a finite maximum, so higher is finite
        shrink = tl.exp(peak - higher)
        weights = tl.exp(scores - higher[:, None])
        total = total * shrink + tl.sum(weights, axis=1)
        if WIDEN:
            acc = tl.dot(weights, values.to(tl.float32), acc * shrink[:, None], input_precision="ieee")
        else:
            acc = tl.dot(weights.to(values.dtype), values, acc * shrink[:, None])
        peak = higher
    kept = ((row * tl.num_programs(1) + head) * group + heads) * splits + split
    tl.store(partial + kept[:, None] * D + dims[None, :], acc, mask=q_mask)
    tl.store(summary + kept * 2, peak, mask=heads < group)
    tl.store(summary + kept * 2 + 1, total, mask=heads < group)


@triton.jit  # type: ignore[untyped-decorator]
def _merge_kernel(  # type: ignore[no-untyped-def]
    partial, summary, contexts, out, most_tokens, splits, o_row, o_head, o_dim,
    D: tl.constexpr, SPLIT: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    context = tl.minimum(tl.load(contexts + row), most_tokens)
    dims = tl.arange(0, BLOCK_D)
    kept = (row * tl.num_programs(1) + head) * splits
    peak = float("-inf")
    total = 0.0
    acc = tl.zeros((BLOCK_D,), dtype=tl.float32)
    for split in range(0, tl.cdiv(context, SPLIT)):
        its_peak = tl.load(summary + (kept + split) * 2)
        its_total = tl.load(summary + (kept + split) * 2 + 1)
        its_acc = tl.load(partial + (kept + split) * D + dims, mask=dims < D, other=0.0)
        higher = tl.maximum(peak, its_peak)
        acc = acc * tl.exp(peak - higher) + its_acc * tl.exp(its_peak - higher)
        total = total * tl.exp(peak - higher) + its_total * tl.exp(its_peak - higher)
        peak = higher
    mean = tl.where(context > 0, acc / tl.where(context > 0, total, 1.0), 0.0)
    tl.store(out + row * o_row + head * o_head + dims * o_dim, mean.to(out.dtype.element_ty), mask=dims < D)


def paged_attention(
    q: Tensor, cache: Tensor, tables: Tensor, contexts: Tensor, *, scale: float, longest: int | None = None
) -> Tensor:
    """Attend from one query token per sequence to the first contexts[i] cached tokens of that sequence.

    Shapes: q [n, H, D] and cache [blocks, 2, KV, block_tokens, D] (keys, values) of one dtype, H a multiple of KV;
    tables [n, most_blocks], block numbers in order of the tokens, and contexts [n], both int32 or int64; returns
    [n, H, D] of q's dtype, zeros for an empty context. `longest`: at least the longest context, where the caller knows.
    Raises ValueError if shapes, dtypes or devices do not fit, and for values out of range on the CPU; on a GPU, where
    looking would wait for the device, a block out of range counts as zeros and contexts are cut to what fits.
    """
    _check(q, cache, tables, contexts)
    fitting = tables.shape[1] * cache.shape[3]
    most_tokens = fitting if longest is None else min(longest, fitting)
    if not q.is_cuda:
        _check_values(cache, tables, contexts, most_tokens)
    if not runs_kernels(q) or q.dtype == torch.float64:
        return paged_attention_reference(q, cache, tables, contexts, scale=scale)
    if q.numel() == 0:
        return torch.zeros_like(q)
    n, heads, dim = q.shape
    blocks, _, kv_heads, block_tokens, _ = cache.shape
    splits = max(1, triton.cdiv(most_tokens, SPLIT_TOKENS))
    partial = torch.empty(n, heads, splits, dim, dtype=torch.float32, device=q.device)
    summary = torch.empty(n, heads, splits, 2, dtype=torch.float32, device=q.device)
    out, block_dim = torch.empty_like(q), max(16, next_power_of_2(dim))
    _attend_kernel[(n, kv_heads, splits)](
        q, cache, tables, contexts, partial, summary, scale, blocks, most_tokens, heads // kv_heads, splits,
        *q.stride(), *cache.stride(), *tables.stride(),
        D=dim, BLOCK_TOKENS=block_tokens, SPLIT=SPLIT_TOKENS, WIDEN=q.dtype == torch.float32 or interpreting(),
        BLOCK_G=max(16, next_power_of_2(heads // kv_heads)), BLOCK_T=TILE_TOKENS, BLOCK_D=block_dim,
    )  # fmt: skip
    _merge_kernel[(n, heads)](
        partial, summary, contexts, out, most_tokens, splits, *out.stride(),
        D=dim, SPLIT=SPLIT_TOKENS, BLOCK_D=block_dim,
    )  # fmt: skip
    return out


def _check(q: Tensor, cache: Tensor, tables: Tensor, contexts: Tensor) -> None:
    named = {"q": q, "cache": cache, "tables": tables, "contexts": contexts}
    shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in named.items())
    dims_fit = (q.dim(), cache.dim(), tables.dim(), contexts.dim()) == (3, 5, 2, 1)
    if not dims_fit or cache.shape[1] != 2 or q.shape[2] != cache.shape[4]:
        raise ValueError(f"{shapes} do not fit; expected [n, H, D], [blocks, 2, KV, block_tokens, D], [n, m] and [n]")
    if not q.shape[0] == tables.shape[0] == contexts.shape[0]:
        raise ValueError(f"{shapes} do not fit; expected as many tables and contexts as queries")
    if 0 in cache.shape[2:4] or q.shape[1] % cache.shape[2]:
        raise ValueError(f"{shapes} do not fit; expected a number of query heads that KV heads divide")
    if q.dtype != cache.dtype or not q.is_floating_point():
        raise ValueError(f"cache of {cache.dtype} does not fit q of {q.dtype}")
    if not {tables.dtype, contexts.dtype} <= {torch.int32, torch.int64}:
        raise ValueError(f"tables of {tables.dtype} and contexts of {contexts.dtype}; expected int32 or int64")
    devices = {str(tensor.device) for tensor in named.values()}
    if len(devices) > 1:
        raise ValueError(f"tensors lie on {', '.join(sorted(devices))}; expected one device")


def _check_values(cache: Tensor, tables: Tensor, contexts: Tensor, most_tokens: int) -> None:
    """Refuse contexts that do not fit their table, and blocks that the cache does not have."""
    if contexts.numel() and not 0 <= int(contexts.min()) <= int(contexts.max()) <= most_tokens:
        reach = f"{int(contexts.min())} to {int(contexts.max())}"
        raise ValueError(f"contexts reach from {reach} tokens; expected 0 to {most_tokens}")
    used = torch.arange(tables.shape[1])[None, :] * cache.shape[3] < contexts[:, None]
    blocks = tables[used]
    if blocks.numel() and not 0 <= int(blocks.min()) <= int(blocks.max()) < cache.shape[0]:
        reach = f"{int(blocks.min())} to {int(blocks.max())}"
        raise ValueError(f"tables name blocks {reach}; expected 0 to {cache.shape[0] - 1}")
