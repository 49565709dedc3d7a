"""Adapters in banks of a device against the CPU's form of the same adapters, rank by rank and place by place."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsys.engine.device_lora import DeviceAdapters
from llmsys.engine.factors import GROUPS, Factor, group_widths
from llmsys.engine.lora import HostAdapters, segments_of
from llmsys.engine.model import ModelConfig

CONFIG = ModelConfig("llama", 24, 2, 3, 1, 8, 40, 64, 1e-5, 1e4, 128)
CPU = torch.device("cpu")
RANKS = (1, 8, 3, 13, 16, 9)


def factors_of(seed, rank, targets=None):
    """Random factors of an adapter in layer 1."""
    generator = torch.Generator().manual_seed(seed)
    return [
        Factor(1, target, torch.randn(rank, width, generator=generator), torch.randn(out, rank, generator=generator))
        for group, (width, outs) in group_widths(CONFIG).items()
        for target, out in zip(GROUPS[group], outs, strict=True)
        if targets is None or target in targets
    ]


def placed(memory, device=None):
    return [memory.place(rank, factors_of(seed, rank)) for seed, rank in enumerate(RANKS)]


@settings(max_examples=12)
@given(
    slots=st.lists(st.integers(0, len(RANKS) - 1), max_size=9).map(sorted),
    base=st.integers(0, 3),
    group=st.sampled_from(sorted(GROUPS)),
)
def test_every_row_gets_what_its_adapter_gives_it_on_a_cpu(slots, base, group):
    host, device = (HostAdapters(CONFIG, dtype=torch.float32), DeviceAdapters(CONFIG, dtype=torch.float32, device=CPU))
    rows = [*slots, *[-1] * base]
    width, outs = group_widths(CONFIG)[group]
    x, y = torch.randn(len(rows), width), torch.randn(len(rows), sum(outs))
    found = []
    for memory in (host, device):
        held = placed(memory)
        parts = [(segment, held[segment.slot]) for segment in segments_of(rows)]
        found.append(memory.step(parts).add(y.clone(), x, 1, group) if parts else y)

    torch.testing.assert_close(found[1], found[0], atol=1e-4, rtol=1e-4)
    assert torch.equal(found[1][len(slots) :], y[len(slots) :])


def test_a_place_that_was_dropped_keeps_nothing_of_its_last_holder(device):
    memory = DeviceAdapters(CONFIG, dtype=torch.float32, device=device)
    memory.drop(memory.place(8, factors_of(1, 8)))

    held = memory.place(5, [])
    (segment,) = segments_of([0, 0])
    y = torch.randn(2, CONFIG.hidden, device=device)
    x = torch.randn(2, CONFIG.q_width, device=device)

    assert held.number == 0
    assert torch.equal(memory.step([(segment, held)]).add(y.clone(), x, 1, "o"), y)


def test_banks_grow_without_moving_who_is_in_them(device):
    memory = DeviceAdapters(CONFIG, dtype=torch.float32, device=device)
    first = memory.place(8, factors_of(1, 8))
    x, y = torch.randn(1, CONFIG.q_width, device=device), torch.zeros(1, CONFIG.hidden, device=device)
    (segment,) = segments_of([0])
    before = memory.step([(segment, first)]).add(y.clone(), x, 1, "o")

    places = {memory.place(8, factors_of(seed, 8)).number for seed in range(2, 7)}

    assert len(places) == 5
    assert first.number not in places
    assert torch.equal(memory.step([(segment, first)]).add(y.clone(), x, 1, "o"), before)


@pytest.mark.parametrize(("rank", "padded"), [(1, 8), (8, 8), (9, 16), (64, 64)])
def test_memory_is_counted_at_the_rank_of_the_bank(rank, padded):
    memory = DeviceAdapters(CONFIG, dtype=torch.bfloat16, device=CPU)
    host = HostAdapters(CONFIG, dtype=torch.bfloat16)

    assert memory.bytes_of(rank) == host.bytes_of(padded) == host.place(padded, []).bytes


def test_factors_prepared_in_another_thread_give_the_bank_the_same_bits():
    factors = factors_of(3, 5)
    plain, staged = (DeviceAdapters(CONFIG, dtype=torch.bfloat16, device=CPU) for _ in range(2))
    plain.place(5, factors)

    prepared = staged.prepare(5, factors)
    staged.place(5, prepared)

    assert {factor.a.dtype for factor in prepared} == {torch.bfloat16}
    for group in GROUPS:
        assert torch.equal(plain._banks[8].a[group], staged._banks[8].a[group])
        assert torch.equal(plain._banks[8].b[group], staged._banks[8].b[group])
