"""Many adapters in one batch: v[s] = x[rows] @ a[s, slot]ᵀ, then y[rows, columns of s] += v[s] @ b[slot]ᵀ (Punica, §4).

Rows come sorted into segments, each with the slot of one adapter; s counts the slices of a fused projection (q, k, v or
gate, up). The two names are Punica's: *shrink* has a long inner dimension, so it is split over programs and summed in a
second stage, in a fixed order: the same batch gives the same bits. *Expand* splits the columns, so it needs no sum.

Bound: per projection 2·T·r·(h_in + h_out) FLOP against adapters·r·(h_in + h_out) elements of weights, so with one row
per adapter the reading of adapters bounds both. Sums are kept in float32; rows of slot −1 are never touched.
The kernels have run under Triton's interpreter alone, on no GPU yet.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from llmsys.gpu.triton_mode import interpreting, next_power_of_2, runs_kernels

__all__ = ["expand", "expand_reference", "shrink", "shrink_reference"]

BLOCK_ROWS = 16  # the least that tl.dot takes; a segment of one row wastes arithmetic, not bandwidth
BLOCK_INNER = 64
BLOCK_COLUMNS = 64
INNER_PER_SPLIT = 512  # fixed, so that a row's sum has the same order in every batch
MOST_SPLITS = 16


def shrink_reference(x: Tensor, a: Tensor, segments: Tensor, slots: Tensor, out: Tensor | None = None) -> Tensor:
    """The definition of `shrink`, a loop over segments in float32, or in float64 for float64 tensors."""
    out = _shrunk(x, a) if out is None else out
    for start, end, slot in _ranges(segments, slots):
        rows = x[start:end].to(out.dtype)
        for index in range(a.shape[0]):
            out[index, start:end] = rows @ a[index, slot].to(out.dtype).T
    return out


def expand_reference(v: Tensor, b: Tensor, segments: Tensor, slots: Tensor, y: Tensor, *, columns: Tensor) -> Tensor:
    """The definition of `expand`, a loop over segments in the precision of v; adds into y and returns it."""
    bounds = columns.tolist()
    for start, end, slot in _ranges(segments, slots):
        for index in range(v.shape[0]):
            span = slice(bounds[index], bounds[index + 1])
            update = v[index, start:end] @ b[slot, span].to(v.dtype).T
            y[start:end, span] = (y[start:end, span].to(v.dtype) + update).to(y.dtype)
    return y


def _ranges(segments: Tensor, slots: Tensor) -> list[tuple[int, int, int]]:
    """(first row, row past the last, slot) of every segment that has rows and an adapter."""
    bounds = segments.tolist()
    spans = zip(bounds[:-1], bounds[1:], slots.tolist(), strict=True)
    return [(start, end, slot) for start, end, slot in spans if end > start and slot >= 0]


@triton.jit  # type: ignore[untyped-decorator]
def _shrink_kernel(  # type: ignore[no-untyped-def]
    x, a, segments, slots, partial, rows_total, h_in, rank, slot_count, slices, tiles,
    x_row, x_inner, a_slice, a_slot, a_rank, a_inner,
    INNER: tl.constexpr, WIDEN: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    segment, tile = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    index, split = (tl.program_id(1) % slices).to(tl.int64), (tl.program_id(1) // slices).to(tl.int64)
    slot = tl.load(slots + segment).to(tl.int64)
    first = tl.load(segments + segment).to(tl.int64) + tile * BLOCK_M
    end = tl.minimum(tl.load(segments + segment + 1).to(tl.int64), rows_total)
    if slot < 0 or slot >= slot_count or first >= end:
        return
    rows = first + tl.arange(0, BLOCK_M).to(tl.int64)
    ranks = tl.arange(0, BLOCK_R).to(tl.int64)
    x_rows = x + rows[:, None] * x_row
    a_rows = a + index * a_slice + slot * a_slot + ranks[None, :] * a_rank
    acc = tl.zeros((BLOCK_M, BLOCK_R), dtype=tl.float32)
    for step in range(0, INNER, BLOCK_K):
        inner = split * INNER + step + tl.arange(0, BLOCK_K).to(tl.int64)
        x_mask = (rows[:, None] < end) & (inner[None, :] < h_in)
        a_mask = (inner[:, None] < h_in) & (ranks[None, :] < rank)
        x_tile = tl.load(x_rows + inner[None, :] * x_inner, mask=x_mask, other=0.0)  # [BLOCK_M, BLOCK_K]
        a_tile = tl.load(a_rows + inner[:, None] * a_inner, mask=a_mask, other=0.0)  # [BLOCK_K, BLOCK_R]
        if WIDEN:
            acc = tl.dot(x_tile.to(tl.float32), a_tile.to(tl.float32), acc, input_precision="ieee")
        else:
            acc = tl.dot(x_tile, a_tile, acc)
    place = ((split * slices + index) * rows_total + rows[:, None]) * rank + ranks[None, :]
    tl.store(partial + place, acc, mask=(rows[:, None] < end) & (ranks[None, :] < rank))


@triton.jit  # type: ignore[untyped-decorator]
def _reduce_kernel(  # type: ignore[no-untyped-def]
    partial, segments, slots, out, rows_total, rank, slot_count, slices, tiles,
    SPLITS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    segment, tile = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    index = tl.program_id(1).to(tl.int64)
    slot = tl.load(slots + segment)
    first = tl.load(segments + segment).to(tl.int64) + tile * BLOCK_M
    end = tl.minimum(tl.load(segments + segment + 1).to(tl.int64), rows_total)
    if slot < 0 or slot >= slot_count or first >= end:
        return
    rows = first + tl.arange(0, BLOCK_M).to(tl.int64)
    ranks = tl.arange(0, BLOCK_R).to(tl.int64)
    mask = (rows[:, None] < end) & (ranks[None, :] < rank)
    acc = tl.zeros((BLOCK_M, BLOCK_R), dtype=tl.float32)
    for split in range(SPLITS):
        part = ((split * slices + index) * rows_total + rows[:, None]) * rank + ranks[None, :]
        acc += tl.load(partial + part, mask=mask, other=0.0)
    tl.store(out + (index * rows_total + rows[:, None]) * rank + ranks[None, :], acc, mask=mask)


@triton.jit  # type: ignore[untyped-decorator]
def _expand_kernel(  # type: ignore[no-untyped-def]
    v, b, segments, slots, columns, y, rows_total, width, rank, slot_count, slices, tiles,
    b_slot, b_column, b_rank, y_row, y_column,
    PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    segment, tile = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    index, column_tile = (tl.program_id(1) % slices).to(tl.int64), tl.program_id(1) // slices
    slot = tl.load(slots + segment).to(tl.int64)
    first = tl.load(segments + segment).to(tl.int64) + tile * BLOCK_M
    end = tl.minimum(tl.load(segments + segment + 1).to(tl.int64), rows_total)
    low = tl.load(columns + index).to(tl.int64) + column_tile * BLOCK_N
    high = tl.minimum(tl.load(columns + index + 1).to(tl.int64), width)
    if slot < 0 or slot >= slot_count or first >= end or low >= high:
        return
    rows = first + tl.arange(0, BLOCK_M).to(tl.int64)
    ranks = tl.arange(0, BLOCK_R).to(tl.int64)
    cols = low + tl.arange(0, BLOCK_N).to(tl.int64)
    v_mask = (rows[:, None] < end) & (ranks[None, :] < rank)
    b_mask = (ranks[:, None] < rank) & (cols[None, :] < high)
    y_mask = (rows[:, None] < end) & (cols[None, :] < high)
    v_place = (index * rows_total + rows[:, None]) * rank + ranks[None, :]
    b_place = slot * b_slot + cols[None, :] * b_column + ranks[:, None] * b_rank
    y_place = y + rows[:, None] * y_row + cols[None, :] * y_column
    v_tile = tl.load(v + v_place, mask=v_mask, other=0.0)  # [BLOCK_M, BLOCK_R]
    b_tile = tl.load(b + b_place, mask=b_mask, other=0.0).to(tl.float32)  # [BLOCK_R, BLOCK_N]
    y_tile = tl.load(y_place, mask=y_mask, other=0.0).to(tl.float32)
    acc = tl.dot(v_tile, b_tile, y_tile, input_precision=PRECISION)
    tl.store(y_place, acc.to(y.dtype.element_ty), mask=y_mask)


def shrink(
    x: Tensor, a: Tensor, segments: Tensor, slots: Tensor, out: Tensor | None = None, *, longest: int | None = None
) -> Tensor:
    """Multiply each segment of rows by its own adapter's A matrices: out[s, i] = a[s, slot of i] @ x[i].

    Shapes: x [T, h_in] and a [slices, slots, rank, h_in] of one dtype, any strides; segments [n + 1] rising row numbers
    and slots [n], −1 for none, both int32 or int64; out [slices, T, rank] float32, contiguous (zeros if left out; rows
    without an adapter keep what they hold). `longest`: the most rows in any segment, where the caller knows.
    Raises ValueError if shapes, dtypes or devices do not fit, and for values out of range on the CPU; on a GPU, where
    looking would wait for the device, a slot out of range counts as −1.
    """
    _check_shrink(x, a, segments, slots)
    slices, slot_count, rank, h_in = a.shape
    out = _shrunk(x, a) if out is None else _checked_out(out, x, a)
    if not x.is_cuda:
        _check_values(slots, slot_count)
        _check_bounds("segments", segments, x.shape[0], longest)
    if not runs_kernels(x) or x.dtype == torch.float64:
        return shrink_reference(x, a, segments, slots, out)
    tiles = triton.cdiv(x.shape[0] if longest is None else longest, BLOCK_ROWS)
    if 0 in (tiles, slots.shape[0], rank, slices):
        return out
    splits = min(MOST_SPLITS, max(1, triton.cdiv(h_in, INNER_PER_SPLIT)))
    inner = triton.cdiv(triton.cdiv(h_in, splits), BLOCK_INNER) * BLOCK_INNER
    partial = out if splits == 1 else torch.empty(splits, *out.shape, dtype=torch.float32, device=x.device)
    block_rank = max(16, next_power_of_2(rank))
    _shrink_kernel[(slots.shape[0] * tiles, slices * splits)](
        x, a, segments, slots, partial, x.shape[0], h_in, rank, slot_count, slices, tiles, *x.stride(), *a.stride(),
        INNER=inner, WIDEN=_widen(x), BLOCK_M=BLOCK_ROWS, BLOCK_K=BLOCK_INNER, BLOCK_R=block_rank,
    )  # fmt: skip
    if splits > 1:
        _reduce_kernel[(slots.shape[0] * tiles, slices)](
            partial, segments, slots, out, x.shape[0], rank, slot_count, slices, tiles,
            SPLITS=splits, BLOCK_M=BLOCK_ROWS, BLOCK_R=block_rank,
        )  # fmt: skip
    return out


def expand(
    v: Tensor, b: Tensor, segments: Tensor, slots: Tensor, y: Tensor, *, columns: Tensor,
    widest: int | None = None, longest: int | None = None,
) -> Tensor:  # fmt: skip
    """Add each segment's low-rank product into its rows: y[i, j] += b[slot of i, j] · v[s, i], s the slice of column j.

    Shapes: v [slices, T, rank] float32, contiguous; b [slots, h_out, rank], scale folded in; segments, slots, `longest`
    as in `shrink`; columns [slices + 1] int32 or int64: slice s is columns[s] to columns[s + 1] of y; y [T, h_out] of
    b's dtype, changed in place and returned. `widest`: the most columns in any slice, where the caller knows.
    Raises ValueError as `shrink` does.
    """
    _check_expand(v, b, segments, slots, y, columns)
    slices, rows, rank = v.shape
    slot_count, width, _ = b.shape
    if not y.is_cuda:
        _check_values(slots, slot_count)
        _check_bounds("segments", segments, rows, longest)
        _check_bounds("columns", columns, width, widest)
    if not runs_kernels(y) or y.dtype == torch.float64:
        return expand_reference(v, b, segments, slots, y, columns=columns)
    tiles = triton.cdiv(rows if longest is None else longest, BLOCK_ROWS)
    column_tiles = triton.cdiv(width if widest is None else widest, BLOCK_COLUMNS)
    if 0 in (tiles, column_tiles, slots.shape[0], rank, slices):
        return y
    _expand_kernel[(slots.shape[0] * tiles, slices * column_tiles)](
        v, b, segments, slots, columns, y, rows, width, rank, slot_count, slices, tiles, *b.stride(), *y.stride(),
        # TF32 holds every bfloat16 and float16 exactly and has the exponents of float32, so that v cannot overflow
        PRECISION="ieee" if y.dtype == torch.float32 else "tf32",
        BLOCK_M=BLOCK_ROWS, BLOCK_N=BLOCK_COLUMNS, BLOCK_R=max(16, next_power_of_2(rank)),
    )  # fmt: skip
    return y


def _widen(x: Tensor) -> bool:
    """Whether tiles become float32 before the product: the interpreter multiplies bfloat16's bits as integers."""
    return x.dtype == torch.float32 or interpreting()


def _shrunk(x: Tensor, a: Tensor) -> Tensor:
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    return torch.zeros(a.shape[0], x.shape[0], a.shape[2], dtype=dtype, device=x.device)


def _checked_out(out: Tensor, x: Tensor, a: Tensor) -> Tensor:
    wanted = (a.shape[0], x.shape[0], a.shape[2])
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    if out.shape != wanted or out.dtype != dtype or not out.is_contiguous() or out.device != x.device:
        raise ValueError(f"out {_shape(out)} does not fit; expected {dtype} {list(wanted)}, contiguous, on {x.device}")
    return out


def _check_shrink(x: Tensor, a: Tensor, segments: Tensor, slots: Tensor) -> None:
    if x.dim() != 2 or a.dim() != 4 or x.shape[-1] != a.shape[-1]:
        raise ValueError(f"x {_shape(x)} and a {_shape(a)} do not fit; expected [T, h_in], [slices, slots, rank, h_in]")
    _check_segments(segments, slots)
    _check_together(x, a, segments, slots)


def _check_expand(v: Tensor, b: Tensor, segments: Tensor, slots: Tensor, y: Tensor, columns: Tensor) -> None:
    shapes_fit = v.dim() == 3 and b.dim() == 3 and y.dim() == 2 and columns.dim() == 1
    if not shapes_fit or (v.shape[1], v.shape[2], b.shape[1]) != (y.shape[0], b.shape[2], y.shape[1]):
        raise ValueError(
            f"v {_shape(v)}, b {_shape(b)} and y {_shape(y)} do not fit; expected [slices, T, rank], "
            "[slots, h_out, rank] and [T, h_out]"
        )
    wanted = torch.float64 if y.dtype == torch.float64 else torch.float32
    if v.dtype != wanted or not v.is_contiguous():
        raise ValueError(f"v {_shape(v)} is not {wanted} and contiguous")
    if columns.shape != (v.shape[0] + 1,) or columns.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"columns {_shape(columns)} do not fit v {_shape(v)}; expected int32 or int64 [slices + 1]")
    _check_segments(segments, slots)
    _check_together(y, b, segments, slots, v, columns)


def _check_segments(segments: Tensor, slots: Tensor) -> None:
    whole = {segments.dtype, slots.dtype} <= {torch.int32, torch.int64}
    if segments.dim() != 1 or slots.dim() != 1 or segments.shape[0] != slots.shape[0] + 1 or not whole:
        raise ValueError(
            f"segments {_shape(segments)} and slots {_shape(slots)} do not fit; expected int32 or int64 [n + 1] and [n]"
        )


def _check_together(first: Tensor, weights: Tensor, *others: Tensor) -> None:
    if first.dtype != weights.dtype or not first.is_floating_point():
        raise ValueError(f"weights {_shape(weights)} are not of the dtype of {_shape(first)}")
    devices = {str(tensor.device) for tensor in (first, weights, *others)}
    if len(devices) > 1:
        raise ValueError(f"tensors lie on {', '.join(sorted(devices))}; expected one device")


def _check_values(slots: Tensor, slot_count: int) -> None:
    wanted = slots.tolist()
    if wanted and not (min(wanted) >= -1 and max(wanted) < slot_count):
        raise ValueError(f"slots reach from {min(wanted)} to {max(wanted)}; expected -1 to {slot_count - 1}")


def _check_bounds(name: str, bounds: Tensor, limit: int, longest: int | None) -> None:
    """Refuse boundaries that fall, leave 0 to limit, or lie further apart than the caller said."""
    steps = bounds.diff()
    if int(bounds[0]) < 0 or int(bounds[-1]) > limit or bool((steps < 0).any()):
        raise ValueError(f"{name} {bounds[:8].tolist()} do not rise from 0 or more to at most {limit}")
    if longest is not None and bool((steps > longest).any()):
        raise ValueError(f"{name} are up to {int(steps.max())} long; expected at most {longest}, as the caller said")


def _shape(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
