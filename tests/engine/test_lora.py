"""Segmented LoRA against its definition, row by row in float64, in both of its forms."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsys.engine.lora import GROUPS, AdapterArena, LoraStep, group_widths, segments_of
from llmsys.engine.model import ModelConfig

CONFIG = ModelConfig("llama", 24, 2, 3, 1, 8, 40, 64, 1e-5, 1e4, 128)
SLOTS = 6


def filled_arena(rank, generator):
    """An arena whose slots hold random adapters of ranks 1..rank, slot 5 the zero adapter; and the factors."""
    arena = AdapterArena(CONFIG, rank=rank, slots=SLOTS, dtype=torch.float32)
    factors = {}
    for slot in range(SLOTS - 1):
        own_rank = 1 + slot % rank
        for group, (width, outs) in group_widths(CONFIG).items():
            for target, out in zip(GROUPS[group], outs, strict=True):
                a = torch.randn(own_rank, width, generator=generator)
                b = torch.randn(out, own_rank, generator=generator)
                arena.put(slot, 1, target, a, b)
                factors[slot, target] = (a, b)
    return arena, factors


def expected_rows(y, x, slots, group, factors):
    """The definition: every row by itself through its own adapter's matrices."""
    rows = y.double().clone()
    for row, slot in enumerate(slots):
        parts = [
            (x[row].double() @ factors[slot, target][0].double().T) @ factors[slot, target][1].double().T
            if (slot, target) in factors
            else torch.zeros(out, dtype=torch.float64)
            for target, out in zip(GROUPS[group], group_widths(CONFIG)[group][1], strict=True)
        ]
        rows[row] += torch.cat(parts)
    return rows


@settings(max_examples=80, deadline=None)
@given(
    slots=st.lists(st.integers(-1, SLOTS - 1), min_size=1, max_size=40),
    rank=st.sampled_from([1, 3, 8]),
    group=st.sampled_from(list(GROUPS)),
    seed=st.integers(0, 2**32 - 1),
)
def test_each_row_goes_through_its_own_adapter(slots, rank, group, seed):
    generator = torch.Generator().manual_seed(seed)
    arena, factors = filled_arena(rank, generator)
    slots = sorted(slots, key=lambda slot: (slot < 0, slot))
    width, outs = group_widths(CONFIG)[group]
    x, y = (torch.randn(len(slots), n, generator=generator) for n in (width, sum(outs)))
    expected = expected_rows(y, x, slots, group, factors)

    found = LoraStep([(arena, segments_of(slots))]).add(y.clone(), x, 1, group)

    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("slots", [[0, 1, 2, 3, 4, -1, -1], [0, 0, 3, -1]])
def test_rows_of_the_base_model_are_not_touched_by_a_bit(slots):
    generator = torch.Generator().manual_seed(3)
    arena, _ = filled_arena(8, generator)
    x, y = torch.randn(len(slots), 24, generator=generator), torch.randn(len(slots), 40, generator=generator)
    y[-1] = -0.0

    found = LoraStep([(arena, segments_of(slots))]).add(y.clone(), x, 1, "qkv")

    base = [row for row, slot in enumerate(slots) if slot < 0]
    assert torch.equal(y[base].view(torch.int32), found[base].view(torch.int32))


def test_a_cleared_slot_adds_nothing():
    arena, _ = filled_arena(4, torch.Generator().manual_seed(4))
    arena.clear(2)
    x, y = torch.ones(1, 24), torch.ones(1, 40)

    assert torch.equal(y, LoraStep([(arena, segments_of([2]))]).add(y.clone(), x, 1, "qkv"))
