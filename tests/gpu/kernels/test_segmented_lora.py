"""Segmented LoRA: the kernels against a loop in float64, on odd shapes, and what they must not touch.

Tolerance: 8·eps·‖x‖·‖a‖, which for weights of unit variance is 8·eps·√h_in of the row's norm.
"""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsys.gpu.kernels.segmented_lora import expand, expand_reference, shrink, shrink_reference

RANKS = [1, 3, 8, 16, 33, 64, 128]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
LAYOUTS = {
    "one row": ([0, 1], [0]),
    "one segment": ([0, 19], [2]),
    "decode, all distinct": (list(range(6)), [4, 0, 3, 1, 2]),
    "empty and single segments": ([0, 0, 1, 1, 18, 18], [3, 1, 2, 4, 0]),
    "base rows last": ([0, 3, 20, 37], [4, 1, -1]),
    "base rows first": ([0, 5, 6], [-1, 2]),
    "one adapter twice": ([0, 2, 4], [1, 1]),
    "base alone": ([0, 7], [-1]),
    "no rows": ([0, 0], [0]),
    "no segments": ([0], []),
}


def _random(*shape: int, dtype=torch.float32, device="cpu", seed=0) -> torch.Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=torch.float64)
    return values.to(device, dtype)


def _layout(name: str, device) -> tuple[torch.Tensor, torch.Tensor]:
    segments, slots = LAYOUTS[name]
    return (
        torch.tensor(segments, dtype=torch.int32, device=device),
        torch.tensor(slots, dtype=torch.int32, device=device),
    )


def _shrink_bound(x: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
    """The tolerance per row [T, 1]: products of half-precision numbers are exact in float32, so its eps counts."""
    largest = a.double().norm(dim=-1).max()
    return 8 * torch.finfo(torch.float32).eps * x.double().norm(dim=1, keepdim=True) * largest


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_shrink_equals_the_float64_loop_on_every_layout(layout, dtype, device):
    segments, slots = _layout(layout, device)
    rows = int(segments[-1])
    x, a = _random(rows, 130, dtype=dtype, device=device), _random(3, 5, 16, 130, dtype=dtype, device=device)

    found = shrink(x, a, segments, slots)
    exact = shrink_reference(x.double(), a.double(), segments, slots)

    assert found.dtype == torch.float32
    assert ((found - exact).abs() <= _shrink_bound(x, a)).all()


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize(("h_in", "slices"), [(1, 1), (33, 2), (576, 3), (1537, 1)])
def test_shrink_equals_the_float64_loop_for_every_rank_and_inner_size(rank, h_in, slices, device):
    segments, slots = _layout("empty and single segments", device)
    x, a = _random(18, h_in, device=device), _random(slices, 5, rank, h_in, device=device)

    found = shrink(x, a, segments, slots)
    exact = shrink_reference(x.double(), a.double(), segments, slots)

    assert ((found - exact).abs() <= _shrink_bound(x, a)).all()


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_expand_equals_the_float64_loop_on_every_layout(layout, dtype, device):
    segments, slots = _layout(layout, device)
    rows = int(segments[-1])
    columns = torch.tensor([0, 70, 70, 101], dtype=torch.int32, device=device)  # the middle slice is empty
    v, b = _random(3, rows, 8, device=device), _random(5, 101, 8, dtype=dtype, device=device)
    y = _random(rows, 101, dtype=dtype, device=device, seed=9)

    exact = expand_reference(v.double(), b.double(), segments, slots, y.double(), columns=columns)
    found = expand(v, b, segments, slots, y.clone(), columns=columns)

    scale = exact.abs() + 8 * v.double().norm(dim=-1).sum(0)[:, None]
    assert ((found.double() - exact).abs() <= 8 * torch.finfo(dtype).eps * scale).all()


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("widths", [(1,), (576, 192, 192), (65, 1, 130)])
def test_expand_equals_the_float64_loop_for_every_rank_and_width(rank, widths, device):
    segments, slots = _layout("empty and single segments", device)
    bounds = torch.tensor([0, *widths], device=device).cumsum(0)
    v, b = _random(len(widths), 18, rank, device=device), _random(5, sum(widths), rank, device=device)
    y = _random(18, sum(widths), device=device, seed=4)

    exact = expand_reference(v.double(), b.double(), segments, slots, y.double(), columns=bounds)
    found = expand(v, b, segments, slots, y.clone(), columns=bounds, widest=max(widths), longest=17)

    scale = exact.abs() + v.double().norm(dim=-1).sum(0)[:, None] * b.double().norm(dim=-1).max()
    assert ((found.double() - exact).abs() <= 8 * torch.finfo(torch.float32).eps * scale).all()


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 20), max_size=5),
    data=st.data(),
    rank=st.integers(1, 20),
    h_in=st.integers(1, 600),
    dtype=st.sampled_from(DTYPES),
)
def test_shrink_then_expand_equals_each_row_through_its_own_adapter(lengths, data, rank, h_in, dtype):
    device = torch.device("cuda") if torch.cuda.is_available() else torch.device("cpu")
    slots = torch.tensor(
        data.draw(st.lists(st.integers(-1, 3), min_size=len(lengths), max_size=len(lengths))),
        dtype=torch.int64,
        device=device,
    )
    segments = torch.tensor([0, *lengths], device=device).cumsum(0)
    rows = sum(lengths)
    columns = torch.tensor([0, 9, 21], device=device)
    x, a = _random(rows, h_in, dtype=dtype, device=device), _random(2, 4, rank, h_in, dtype=dtype, device=device)
    b, y = _random(4, 21, rank, dtype=dtype, device=device), _random(rows, 21, dtype=dtype, device=device, seed=2)

    found = expand(shrink(x, a, segments, slots), b, segments, slots, y.clone(), columns=columns)

    expected, scale = y.double().clone(), y.double().abs()
    of_row = torch.repeat_interleave(slots, torch.tensor(lengths, dtype=torch.int64, device=device)).tolist()
    for row, slot in enumerate(of_row):
        for index, span in enumerate((slice(0, 9), slice(9, 21))) if slot >= 0 else ():
            product = b[slot, span].double() @ a[index, slot].double()
            expected[row, span] += product @ x[row].double()
            norms = b[slot, span].double().norm(dim=1) * a[index, slot].double().norm()
            scale[row, span] += norms * x[row].double().norm()
    assert ((found.double() - expected).abs() <= 8 * torch.finfo(dtype).eps * scale).all()


@pytest.mark.parametrize("operation", ["shrink", "expand"])
def test_rows_without_an_adapter_keep_their_bits(operation, device):
    segments, slots = _layout("base rows last", device)
    held = torch.full((2, 37, 3) if operation == "shrink" else (37, 12), -0.0, device=device)
    if operation == "shrink":
        found = shrink(_random(37, 40, device=device), _random(2, 5, 3, 40, device=device), segments, slots, held)
        untouched, changed = found[:, 20:], found[:, :20]
    else:
        columns = torch.tensor([0, 12], device=device)
        v, b = _random(1, 37, 3, device=device), _random(5, 12, 3, device=device)
        found = expand(v, b, segments, slots, held, columns=columns)
        untouched, changed = found[20:], found[:20]

    assert found.data_ptr() == held.data_ptr()
    assert untouched.signbit().all()  # adding a masked zero would turn it into +0.0
    assert (changed != 0).all()


def test_rows_past_the_last_segment_are_not_touched(device):
    segments, slots = torch.tensor([0, 2], device=device), torch.tensor([1], device=device)
    x, a = torch.full((5, 8), math.nan, device=device), _random(1, 2, 3, 8, device=device)
    x[:2] = 1.0

    found = shrink(x, a, segments, slots)

    assert found[:, :2].isfinite().all()
    assert (found[:, 2:] == 0).all()


def test_columns_outside_every_slice_are_not_even_written_back(device):
    segments, slots = _layout("one segment", device)
    y = torch.full((19, 50), -0.0, device=device)  # adding a masked zero would turn it into +0.0
    columns = torch.tensor([10, 40], device=device)

    expand(_random(1, 19, 4, device=device), _random(5, 50, 4, device=device), segments, slots, y, columns=columns)

    assert y[:, :10].signbit().all()
    assert y[:, 40:].signbit().all()
    assert (y[:, 10:40] != 0).all()


def test_a_row_gets_the_same_bits_alone_and_in_a_batch(device):
    x, a = _random(32, 1100, device=device), _random(2, 32, 16, 1100, device=device)
    segments, slots = torch.arange(33, device=device), torch.arange(31, -1, -1, device=device)
    together = shrink(x, a, segments, slots)

    for row in (0, 13, 31):
        alone = shrink(x[row : row + 1], a, torch.tensor([0, 1], device=device), slots[row : row + 1])
        assert torch.equal(alone[:, 0], together[:, row])


def test_the_same_call_twice_gives_the_same_bits(device):
    segments, slots = _layout("base rows last", device)
    x, a = _random(37, 1300, device=device), _random(1, 5, 33, 1300, device=device)

    assert torch.equal(shrink(x, a, segments, slots), shrink(x, a, segments, slots))


def test_strided_rows_slots_and_outputs_are_addressed_by_their_strides(device):
    segments, slots = _layout("empty and single segments", device)
    x, a = _random(200, 36, device=device).T[:18, ::2], _random(10, 2, 96, 6, device=device)
    a = a.permute(1, 0, 3, 2)[:, ::2, :, :100]
    x = x[:, : a.shape[3]]
    wide, b = torch.zeros(18, 300, device=device), _random(5, 6, 40, device=device).transpose(1, 2)
    columns = torch.tensor([0, 25, 40], device=device)

    v = shrink(x, a, segments, slots)
    expand(v, b, segments, slots, wide[:, 200:280:2], columns=columns)

    exact = shrink_reference(x.contiguous(), a.contiguous(), segments, slots)
    y = expand_reference(exact, b.contiguous(), segments, slots, torch.zeros(18, 40, device=device), columns=columns)
    torch.testing.assert_close(v, exact, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(wide[:, 200:280:2], y, rtol=1e-5, atol=1e-3)
    assert (wide[:, 201:280:2] == 0).all()
    assert (wide[:, :200] == 0).all()


def test_sums_past_float16_stay_finite_between_the_two_halves(device):
    segments, slots = torch.tensor([0, 1], device=device), torch.tensor([0], device=device)
    x = torch.full((1, 256), 60.0, dtype=torch.float16, device=device)
    a = torch.full((1, 1, 1, 256), 60.0, dtype=torch.float16, device=device)
    b = torch.full((1, 4, 1), 1e-3, dtype=torch.float16, device=device)
    y = torch.zeros(1, 4, dtype=torch.float16, device=device)

    v = shrink(x, a, segments, slots)
    expand(v, b, segments, slots, y, columns=torch.tensor([0, 4], device=device))

    assert v.item() == 921600.0
    torch.testing.assert_close(y.float(), torch.full((1, 4), 921.6, device=device), rtol=2e-3, atol=0)


def test_weights_of_other_slots_are_never_read(device):
    segments, slots = _layout("decode, all distinct", device)
    a = torch.full((1, 40, 8, 64), math.nan, device=device)
    a[:, :5] = _random(1, 5, 8, 64, device=device)

    assert shrink(_random(5, 64, device=device), a, segments, slots).isfinite().all()


X, A = torch.zeros(4, 6), torch.zeros(2, 3, 5, 6)
V, B, Y = torch.zeros(2, 4, 5), torch.zeros(3, 9, 5), torch.zeros(4, 9)
SEGMENTS, SLOTS, COLUMNS = torch.tensor([0, 4]), torch.tensor([0]), torch.tensor([0, 4, 9])


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"x": torch.zeros(4, 7)}, r"x float32 \[4, 7\] and a float32 \[2, 3, 5, 6\] do not fit"),
        ({"x": torch.zeros(4)}, "do not fit"),
        ({"a": torch.zeros(3, 5, 6)}, "do not fit"),
        ({"a": A.half()}, "not of the dtype"),
        ({"x": X.int(), "a": A.int()}, "not of the dtype"),
        ({"slots": torch.tensor([0, 1])}, r"segments int64 \[2\] and slots int64 \[2\] do not fit"),
        ({"slots": torch.tensor([0.0])}, "expected int32 or int64"),
        ({"slots": torch.tensor([3])}, "slots reach from 3 to 3; expected -1 to 2"),
        ({"slots": torch.tensor([-2])}, "expected -1 to 2"),
        ({"segments": torch.tensor([0, 5])}, "do not rise from 0 or more to at most 4"),
        ({"segments": torch.tensor([-1, 4])}, "do not rise"),
        ({"segments": torch.tensor([0, 3, 1]), "slots": torch.tensor([0, 0])}, "do not rise"),
        ({"longest": 3}, "segments are up to 4 long; expected at most 3"),
        ({"out": torch.zeros(2, 4, 4)}, r"out float32 \[2, 4, 4\] does not fit"),
        ({"out": torch.zeros(2, 4, 5, dtype=torch.float16)}, "does not fit"),
        ({"out": torch.zeros(4, 2, 5).transpose(0, 1)}, "contiguous"),
    ],
)
def test_shrink_refuses_what_does_not_fit_and_names_it(changed, words):
    with pytest.raises(ValueError, match=words):
        shrink(**({"x": X, "a": A, "segments": SEGMENTS, "slots": SLOTS} | changed))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"v": torch.zeros(2, 4, 6)}, r"v float32 \[2, 4, 6\], b float32 \[3, 9, 5\] and y float32 \[4, 9\]"),
        ({"v": V.half()}, "is not torch.float32 and contiguous"),
        ({"v": torch.zeros(4, 2, 5).transpose(0, 1)}, "contiguous"),
        ({"b": torch.zeros(3, 8, 5)}, "do not fit"),
        ({"b": B.half()}, "not of the dtype"),
        ({"y": torch.zeros(36)}, "do not fit"),
        ({"columns": torch.tensor([0, 9])}, r"columns int64 \[2\] do not fit"),
        ({"columns": torch.tensor([0.0, 4.0, 9.0])}, "expected int32 or int64"),
        ({"columns": torch.tensor([0, 9, 4])}, "columns .* do not rise"),
        ({"columns": torch.tensor([0, 4, 10])}, "at most 9"),
        ({"widest": 4}, "columns are up to 5 long"),
        ({"longest": 0}, "segments are up to 4 long"),
        ({"slots": torch.tensor([7])}, "expected -1 to 2"),
    ],
)
def test_expand_refuses_what_does_not_fit_and_names_it(changed, words):
    usual = {"v": V, "b": B, "segments": SEGMENTS, "slots": SLOTS, "y": Y, "columns": COLUMNS}
    with pytest.raises(ValueError, match=words):
        expand(**(usual | changed))


def test_without_the_interpreter_the_cpu_uses_the_reference(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    x, a = _random(4, 6), _random(2, 3, 5, 6)

    assert torch.equal(shrink(x, a, SEGMENTS, SLOTS), shrink_reference(x, a, SEGMENTS, SLOTS))
