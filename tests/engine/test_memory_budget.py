"""Keys, values and adapters under one budget: nobody gets what another holds, and whoever runs alone can end."""

import json

import pytest
import torch
from safetensors.torch import save_file

from llmsys.engine.adapter_pool import AdapterPool
from llmsys.engine.block_manager import BlockManager
from llmsys.engine.config import EngineConfig
from llmsys.engine.errors import AdapterBusy, AdapterError, RequestError
from llmsys.engine.lora import HostAdapters
from llmsys.engine.memory_budget import MemoryBudget
from llmsys.engine.model import ModelConfig


class Nowhere:
    """A store without memory."""

    def release(self, sequence_id):
        pass

    def copy_prefix(self, source_id, target_id, tokens):
        pass


def nobody_gives_way():
    return False


def manager(blocks=10):
    return BlockManager(Nowhere(), blocks=blocks, block_tokens=4, rows=8)


def test_bytes_are_taken_in_whole_blocks_and_come_back():
    blocks = manager()
    budget = MemoryBudget(blocks, nobody_gives_way, block_bytes=100)

    assert budget.take(101)
    assert (blocks.counts.lent, blocks.counts.free) == (2, 8)
    budget.give_back(101)
    assert (blocks.counts.lent, blocks.counts.free) == (0, 10)


def test_the_longest_sequence_keeps_its_room_beside_all_adapters():
    blocks = manager()
    budget = MemoryBudget(blocks, nobody_gives_way, block_bytes=100)

    assert budget.keep(14, beside_bytes=300) == 14
    assert [budget.take(300), budget.take(300), budget.take(300)] == [True, True, False]
    assert blocks.allocate(1, b"root", list(range(14)), 14) == 0


def test_a_length_that_leaves_an_adapter_no_room_is_cut():
    assert MemoryBudget(manager(), nobody_gives_way, block_bytes=100).keep(1000, beside_bytes=301) == (10 - 4) * 4


def test_a_budget_that_one_adapter_fills_is_refused_with_what_would_do():
    with pytest.raises(RequestError, match="memory_bytes is 1000; expected 1100 or more"):
        MemoryBudget(manager(), nobody_gives_way, block_bytes=100).keep(4, beside_bytes=1000)


def test_cached_prefixes_go_for_an_adapter_and_memory_in_use_does_not():
    blocks = manager()
    for number in (1, 2):
        blocks.allocate(number, b"root", [number] * 16, 16)
        blocks.advance(number, [number] * 16, 16)
    blocks.free(1)
    budget = MemoryBudget(blocks, nobody_gives_way, block_bytes=100)

    assert not budget.take(700)
    assert budget.take(600)
    assert {number for number, _, _ in blocks.tables()} == {2}


def test_more_than_was_lent_cannot_come_back():
    with pytest.raises(ValueError, match="1 blocks come back; expected at most 0"):
        manager().take_back(1)


def test_one_common_budget_or_two_but_not_both():
    with pytest.raises(RequestError, match="both given; expected one of them"):
        EngineConfig(memory_bytes=1, kv_memory_bytes=1)


def test_a_waiting_adapter_takes_the_memory_of_a_parked_request_only_when_nobody_runs(parts):
    engine = parts.make_engine(blocks=9, block_bytes=5, max_len=20)
    parked, runs = (engine.add(parts.greedy_request([n] * 12, 8)) for n in (1, 2))
    engine.step()
    engine.park(parked)
    adapted = engine.add(parts.greedy_request([3] * 4, 8, adapter="fr"))
    events = engine.step()
    held = [engine.stats().blocks.lent]
    while engine.unfinished(runs):
        held.append(engine.stats().blocks.lent)
        events += engine.step()
    while engine.unfinished(adapted):
        events += engine.step()
        held.append(engine.stats().blocks.lent)
    engine.resume(parked)
    events = parts.drain(engine, events)

    assert (held[0], held[-1]) == (0, 2)
    assert parts.tokens_of(events, adapted) == parts.expected_greedy([3] * 4, 8, engine.slots.digest("fr"))
    assert parts.tokens_of(events, parked)[-6:] == parts.expected_greedy([1] * 12, 8)[-6:]


SHAPE = ModelConfig("llama", 16, 2, 2, 1, 8, 24, 64, 1e-5, 1e4, 128)


def write_adapter(path, rank):
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
    path.mkdir()
    tensors = {name + "A.weight": torch.ones(rank, 16), name + "B.weight": torch.ones(16, rank)}
    save_file(tensors, path / "adapter_model.safetensors")
    (path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": rank, "lora_alpha": rank}))
    return path


def pool_of(tmp_path, budget, *ranks):
    pool = AdapterPool(SHAPE, slots=8, rank_max=8, dtype=torch.float32)
    pool.share(budget)
    for rank in ranks:
        pool.register(f"r{rank}", write_adapter(tmp_path / f"r{rank}", rank))
    return pool


def test_a_pool_charges_each_adapter_and_sheds_the_idle_ones(tmp_path):
    blocks = manager(blocks=100)
    each = HostAdapters(SHAPE, dtype=torch.float32).bytes_of(1)
    pool = pool_of(tmp_path, MemoryBudget(blocks, nobody_gives_way, block_bytes=each), 1, 2, 4)

    held = pool.acquire("r4")
    pool.release(pool.acquire("r2"))
    lent = [blocks.counts.lent]
    lent += [(pool.shed(), blocks.counts.lent), (pool.shed(), blocks.counts.lent)]
    pool.release(held)
    lent += [(pool.shed(), blocks.counts.lent)]

    assert lent == [6, (True, 4), (False, 4), (True, 0)]


def test_a_pool_evicts_idle_adapters_for_a_new_one_and_waits_for_held_ones(tmp_path):
    blocks = manager(blocks=6)
    each = HostAdapters(SHAPE, dtype=torch.float32).bytes_of(1)
    pool = pool_of(tmp_path, MemoryBudget(blocks, nobody_gives_way, block_bytes=each), 4, 5, 3)

    pool.release(pool.acquire("r4"))
    held = pool.acquire("r5")
    assert pool.resident() == ("r5",)
    with pytest.raises(AdapterBusy):
        pool.acquire("r3")
    pool.release(held)
    pool.acquire("r3")
    assert (pool.resident(), blocks.counts.lent) == (("r3",), 3)


def test_memory_of_an_adapter_that_could_not_be_placed_comes_back(tmp_path):
    class Full(HostAdapters):
        def place(self, rank, factors):
            raise MemoryError

    blocks = manager()
    pool = AdapterPool(SHAPE, slots=8, rank_max=8, dtype=torch.float32, memory=Full(SHAPE, dtype=torch.float32))
    pool.share(MemoryBudget(blocks, nobody_gives_way, block_bytes=1 << 20))
    pool.register("a", write_adapter(tmp_path / "a", 4))

    with pytest.raises(AdapterError, match="out of memory while it was loaded"):
        pool.acquire("a")
    assert (blocks.counts.lent, pool.resident()) == (0, ())
