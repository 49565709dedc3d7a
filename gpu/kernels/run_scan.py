"""The nearest vectors of many lists in one launch: every query compares its own list of rows, whoever's it is.

score(i, r) = ||vectors[r] - queries[i]||^2 under l2, minus their inner product otherwise, for r in
slots[starts[i] : starts[i] + lengths[i]]. One program scores SPAN entries of one list and keeps the least; a second
kernel merges what the programs of a query kept, in as many rounds as its list needs. Ties go to the earlier entry.

Bound: each listed row is gathered once, d elements and 4 bytes of list, so memory bandwidth bounds it.
The kernels have run under Triton's interpreter alone, on no GPU yet.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from llmsys.gpu.triton_mode import next_power_of_2, runs_kernels

__all__ = ["MOST_KEPT", "scan_runs", "scan_runs_reference"]

SPAN = 256
MERGED = 1024
MOST_KEPT = 128
NOTHING = 2**63 - 1


def scan_runs_reference(
    queries: Tensor, vectors: Tensor, slots: Tensor, starts: Tensor, lengths: Tensor, *, kept: int, l2: bool
) -> tuple[Tensor, Tensor]:
    """The definition of `scan_runs`, a loop over queries in float32."""
    found = torch.full((len(queries), kept), -1, dtype=torch.int32, device=queries.device)
    scores = torch.full((len(queries), kept), torch.inf, device=queries.device)
    for row, (start, length) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True)):
        mine = slots[start : start + length].long()
        gathered = vectors[mine].float()
        near = ((gathered - queries[row]) ** 2).sum(dim=1) if l2 else -(gathered @ queries[row])
        best = torch.sort(near, stable=True).indices[:kept]
        found[row, : len(best)], scores[row, : len(best)] = mine[best].int(), near[best]
    return found, scores


@triton.jit  # type: ignore[untyped-decorator]
def _scan_kernel(  # type: ignore[no-untyped-def]
    queries, vectors, slots, owner, first, end, keys, D,
    L2: tl.constexpr, SPAN: tl.constexpr, KEPT: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    item = tl.program_id(0).to(tl.int64)
    row = tl.load(owner + item)
    places = tl.load(first + item) + tl.arange(0, SPAN)
    live = places < tl.load(end + item)
    rows = tl.load(slots + places, mask=live, other=0).to(tl.int64)
    scores = tl.zeros((SPAN,), dtype=tl.float32)
    for step in range(0, D, BLOCK_D):
        dims = step + tl.arange(0, BLOCK_D)
        query = tl.load(queries + row * D + dims, mask=dims < D, other=0.0)
        mask = live[:, None] & (dims[None, :] < D)
        block = tl.load(vectors + rows[:, None] * D + dims[None, :], mask=mask, other=0.0).to(tl.float32)
        if L2:
            gap = tl.where(mask, block - query[None, :], 0.0)
            scores += tl.sum(gap * gap, axis=1)
        else:
            scores -= tl.sum(block * query[None, :], axis=1)
    # as integers, floats keep their order once negative ones are flipped; the place in the list breaks ties
    bits = (scores + 0.0).to(tl.int32, bitcast=True)
    ordered = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.int64)
    key = tl.where(live, (ordered << 32) | places, 0x7FFFFFFFFFFFFFFF)
    for rank in range(KEPT):
        least = tl.min(key, axis=0)
        tl.store(keys + item * KEPT + rank, least)
        key = tl.where(key == least, 0x7FFFFFFFFFFFFFFF, key)


@triton.jit  # type: ignore[untyped-decorator]
def _merge_kernel(  # type: ignore[no-untyped-def]
    keys, first, end, merged, KEPT: tl.constexpr, MERGED: tl.constexpr
):
    item = tl.program_id(0).to(tl.int64)
    places = tl.load(first + item) * KEPT + tl.arange(0, MERGED)
    key = tl.load(keys + places, mask=places < tl.load(end + item) * KEPT, other=0x7FFFFFFFFFFFFFFF)
    for rank in range(KEPT):
        least = tl.min(key, axis=0)
        tl.store(merged + item * KEPT + rank, least)
        key = tl.where(key == least, 0x7FFFFFFFFFFFFFFF, key)


def scan_runs(
    queries: Tensor, vectors: Tensor, slots: Tensor, starts: Tensor, lengths: Tensor, *, kept: int, l2: bool
) -> tuple[Tensor, Tensor]:
    """The `kept` rows of least score for every query, among those that its part of `slots` names.

    Shapes: queries [m, d] float32, vectors [n, d] float32 or float16, slots [t] int32 with t < 2**32, starts and
    lengths [m] int64; all contiguous, on one device. Returns rows [m, kept] int32, -1 where there are no more, and
    scores [m, kept] float32, infinite there. Raises ValueError if shapes or dtypes do not fit, or kept is over
    MOST_KEPT.
    """
    _check(queries, vectors, slots, starts, lengths, kept)
    if not runs_kernels(queries):
        return scan_runs_reference(queries, vectors, slots, starts, lengths, kept=kept, l2=l2)
    width = next_power_of_2(kept)
    owner, first, end = _pieces(starts, starts + lengths, SPAN)
    keys = torch.full((max(1, len(owner)), width), NOTHING, dtype=torch.int64, device=queries.device)
    if len(owner):
        dim = queries.shape[1]
        _scan_kernel[(len(owner),)](
            queries, vectors, slots, owner, first, end, keys, dim,
            L2=l2, SPAN=SPAN, KEPT=width, BLOCK_D=min(32, max(16, next_power_of_2(dim))),
        )  # fmt: skip
    keys, counts = _merged(keys, torch.bincount(owner, minlength=len(queries)), width)
    chosen = torch.full((len(queries), width), NOTHING, dtype=torch.int64, device=queries.device)
    chosen[counts > 0] = keys[: int((counts > 0).sum())]
    return _decoded(chosen[:, :kept], slots)


def _pieces(starts: Tensor, ends: Tensor, span: int) -> tuple[Tensor, Tensor, Tensor]:
    """Every range cut into pieces of at most `span`: the range of each piece, its start and the end of its range."""
    counts = (ends - starts + span - 1) // span
    owner = torch.repeat_interleave(torch.arange(len(starts), device=starts.device), counts)
    inside = torch.arange(len(owner), device=starts.device) - (torch.cumsum(counts, 0) - counts)[owner]
    first = starts[owner] + inside * span
    return owner, first, torch.minimum(first + span, ends[owner])


def _merged(keys: Tensor, counts: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Keys [pieces, width] and the number of pieces of each query, merged until none has more than one."""
    fan = MERGED // width
    while int(counts.max()) > 1:
        ends = torch.cumsum(counts, 0)
        owner, first, end = _pieces(ends - counts, ends, fan)
        merged = torch.full((len(owner), width), NOTHING, dtype=torch.int64, device=keys.device)
        _merge_kernel[(len(owner),)](keys, first, end, merged, KEPT=width, MERGED=MERGED)
        keys, counts = merged, torch.bincount(owner, minlength=len(counts))
    return keys, counts


def _decoded(keys: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and scores of keys."""
    there = keys != NOTHING
    places = torch.where(there, keys & 0xFFFFFFFF, 0)
    ordered = (keys >> 32).to(torch.int32)
    scores = (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).view(torch.float32)
    rows = slots[places] if len(slots) else torch.zeros_like(places, dtype=torch.int32)
    return torch.where(there, rows, -1), torch.where(there, scores, torch.inf)


def _check(queries: Tensor, vectors: Tensor, slots: Tensor, starts: Tensor, lengths: Tensor, kept: int) -> None:
    named = {"queries": queries, "vectors": vectors, "slots": slots, "starts": starts, "lengths": lengths}
    shapes = ", ".join(f"{name} {list(tensor.shape)} {tensor.dtype}" for name, tensor in named.items())
    dims = (queries.dim(), vectors.dim(), slots.dim(), starts.dim(), lengths.dim()) == (2, 2, 1, 1, 1)
    if not dims or queries.shape[1] != vectors.shape[1] or not len(queries) == len(starts) == len(lengths):
        raise ValueError(f"{shapes} do not fit; expected [m, d], [n, d], [t], [m] and [m]")
    typed = (queries.dtype, slots.dtype, starts.dtype, lengths.dtype)
    if typed != (torch.float32, torch.int32, torch.int64, torch.int64) or not vectors.is_floating_point():
        raise ValueError(f"{shapes} do not fit; expected float32, float, int32, int64 and int64")
    if not 1 <= kept <= MOST_KEPT:
        raise ValueError(f"kept is {kept}; expected 1 to {MOST_KEPT}")
    if not all(tensor.is_contiguous() for tensor in named.values()):
        raise ValueError(f"{shapes} are not all contiguous")
