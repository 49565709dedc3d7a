"""Segmented LoRA against its definition, row by row in float64, in both of its forms and both number formats."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsys.engine.factors import GROUPS, group_widths
from llmsys.engine.lora import AdapterWeights, LoraStep, segments_of
from llmsys.engine.model import ModelConfig

CONFIG = ModelConfig("llama", 24, 2, 3, 1, 8, 40, 64, 1e-5, 1e4, 128)
RANKS = (1, 3, 4, 8, 13)
SLOTS = len(RANKS) + 1
ALWAYS, NEVER = 1, 1 << 30


def random_adapters(seed, dtype=torch.float32):
    """Adapters of every rank in RANKS with some targets in layer 1, and the zero adapter; and the factors."""
    generator = torch.Generator().manual_seed(seed)
    weights, factors = [], {}
    for slot, rank in enumerate((*RANKS, 2)):
        weights.append(AdapterWeights(CONFIG, rank=rank, dtype=dtype))
        for group, (width, outs) in group_widths(CONFIG).items():
            for index, (target, out) in enumerate(zip(GROUPS[group], outs, strict=True)):
                if slot == SLOTS - 1 or (slot + index) % 3 == 0:
                    continue
                a = torch.randn(rank, width, generator=generator).to(dtype)
                b = torch.randn(out, rank, generator=generator).to(dtype)
                weights[slot].put(1, target, a, b)
                factors[slot, target] = (a.double(), b.double())
    return weights, factors


def expected_rows(y, x, slots, group, factors):
    """The definition: every row by itself through its own adapter's matrices."""
    rows = y.double().clone()
    for row, slot in enumerate(slots):
        parts = [
            (x[row].double() @ factors[slot, target][0].T) @ factors[slot, target][1].T
            if (slot, target) in factors
            else torch.zeros(out, dtype=torch.float64)
            for target, out in zip(GROUPS[group], group_widths(CONFIG)[group][1], strict=True)
        ]
        rows[row] += torch.cat(parts)
    return rows


def step_of(weights, slots, long_rows=4):
    return LoraStep(CONFIG, [(s, weights[s.slot]) for s in segments_of(slots)], long_rows=long_rows)


def by_slot(slots):
    return sorted(slots, key=lambda slot: (slot < 0, slot))


@settings(max_examples=120)
@given(
    slots=st.lists(st.integers(-1, SLOTS - 1), min_size=1, max_size=40).map(by_slot),
    group=st.sampled_from(list(GROUPS)),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    long_rows=st.sampled_from([ALWAYS, 3, NEVER]),
    seed=st.integers(0, 2**32 - 1),
)
def test_each_row_goes_through_its_own_adapter(slots, group, dtype, long_rows, seed):
    generator = torch.Generator().manual_seed(seed)
    weights, factors = random_adapters(seed, dtype)
    width, outs = group_widths(CONFIG)[group]
    x, y = (torch.randn(len(slots), n, generator=generator).to(dtype) for n in (width, sum(outs)))
    expected = expected_rows(y, x, slots, group, factors)

    found = step_of(weights, slots, long_rows).add(y.clone(), x, 1, group)

    tolerance = 1e-4 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("long_rows", [ALWAYS, NEVER])
@pytest.mark.parametrize("slots", [[0, 1, 2, 3, 4, -1, -1], [0, 0, 3, -1], [-1]])
def test_rows_of_the_base_model_are_not_touched_by_a_bit(slots, long_rows):
    generator = torch.Generator().manual_seed(3)
    weights, _ = random_adapters(3)
    x, y = torch.randn(len(slots), 24, generator=generator), torch.randn(len(slots), 40, generator=generator)
    y[-1] = -0.0

    found = step_of(weights, slots, long_rows).add(y.clone(), x, 1, "qkv")

    base = [row for row, slot in enumerate(slots) if slot < 0]
    assert torch.equal(y[base].view(torch.int32), found[base].view(torch.int32))


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("long_rows", [ALWAYS, NEVER])
def test_an_adapter_without_a_layer_or_a_target_changes_no_bit_there(layer, long_rows):
    weights, _ = random_adapters(4)
    x, y = torch.ones(1, 24), torch.full((1, 40), -0.0)
    slot = SLOTS - 1 if layer == 1 else 1

    found = step_of(weights, [slot], long_rows).add(y.clone(), x, layer, "qkv")

    assert torch.equal(y.view(torch.int32), found.view(torch.int32))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_of_the_loop_has_the_same_bits_whatever_is_beside_it(dtype):
    weights, _ = random_adapters(6, dtype)
    slots = [0, 1, 1, 2, 3, 4]
    x, y = (torch.randn(len(slots), n).to(dtype) for n in (24, 40))

    together = step_of(weights, slots, NEVER).add(y.clone(), x, 1, "qkv")

    for row, slot in enumerate(slots):
        here = slice(row, row + 1)
        alone = step_of(weights, [slot], NEVER).add(y[here].clone(), x[here].clone(), 1, "qkv")
        assert torch.equal(alone, together[here])


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_any_team_computes_the_same_bits(threads):
    weights, _ = random_adapters(7)
    slots = [0, 1, 2, 3, 4]
    x, y = torch.randn(5, 24), torch.randn(5, 40)
    before = torch.get_num_threads()
    expected = step_of(weights, slots, NEVER).add(y.clone(), x, 1, "qkv")

    torch.set_num_threads(threads)
    found = step_of(weights, slots, NEVER).add(y.clone(), x, 1, "qkv")
    torch.set_num_threads(before)

    assert torch.equal(found, expected)


@pytest.mark.parametrize("long_rows", [ALWAYS, NEVER])
def test_nan_in_an_adapter_stays_in_its_own_rows(long_rows):
    weights, _ = random_adapters(8)
    weights[1].factors(1, "o", 0)[0][0, 0] = torch.nan
    weights[1].present["o"][1] = 1
    x, y = torch.randn(3, 24), torch.randn(3, 24)

    found = step_of(weights, [0, 1, 2], long_rows).add(y, x, 1, "o")

    assert found.isnan().any(dim=1).tolist() == [False, True, False]


def test_a_format_without_a_loop_goes_through_matmuls():
    weights, factors = random_adapters(9, torch.float64)
    x, y = torch.randn(2, 24, dtype=torch.float64), torch.randn(2, 40, dtype=torch.float64)
    expected = expected_rows(y, x, [0, 1], "qkv", factors)

    found = step_of(weights, [0, 1], NEVER).add(y.clone(), x, 1, "qkv")

    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
