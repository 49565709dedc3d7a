"""Adapter directories and the pool: against PEFT's own files, hostile ones, and a model of residency."""

import json
import math

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from safetensors.torch import load_file, save_file

from llmsys.engine.adapter_files import read_adapter
from llmsys.engine.adapter_pool import AdapterPool
from llmsys.engine.errors import AdapterBusy, AdapterError
from llmsys.engine.lora import AdapterWeights, HostAdapters
from llmsys.engine.model import ModelConfig

CONFIG = ModelConfig("llama", 16, 2, 2, 1, 8, 24, 64, 1e-5, 1e4, 128)
WEIGHTS = "adapter_model.safetensors"
SETTINGS = "adapter_config.json"


def tensor_name(layer, module, half):
    return f"base_model.model.model.layers.{layer}.{module}.lora_{half}.weight"


def write_adapter(path, *, rank=4, alpha=8, seed=0, **settings_):
    """An adapter of q_proj in layer 0 and down_proj in layer 1, as PEFT writes it."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        tensor_name(0, "self_attn.q_proj", "A"): torch.randn(rank, 16, generator=generator),
        tensor_name(0, "self_attn.q_proj", "B"): torch.randn(16, rank, generator=generator),
        tensor_name(1, "mlp.down_proj", "A"): torch.randn(rank, 24, generator=generator),
        tensor_name(1, "mlp.down_proj", "B"): torch.randn(16, rank, generator=generator),
    }
    path.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path / WEIGHTS)
    (path / SETTINGS).write_text(json.dumps({"peft_type": "LORA", "r": rank, "lora_alpha": alpha} | settings_))
    return path


def edit(path, change):
    tensors = load_file(path / WEIGHTS)
    change(tensors)
    save_file(tensors, path / WEIGHTS)


@pytest.fixture
def adapter(tmp_path):
    return write_adapter(tmp_path / "fr")


def read(path, rank_max=8):
    return read_adapter(path, CONFIG, rank_max=rank_max)


@pytest.mark.parametrize(
    ("settings_", "scales"),
    [
        ({}, {"q_proj": 8 / 4, "down_proj": 8 / 4}),
        ({"use_rslora": True}, {"q_proj": 8 / 2, "down_proj": 8 / 2}),
        ({"alpha_pattern": {"down_proj": 2}}, {"q_proj": 8 / 4, "down_proj": 2 / 4}),
        ({"alpha_pattern": {"layers.1.mlp.down_proj": 1}}, {"q_proj": 8 / 4, "down_proj": 1 / 4}),
    ],
)
def test_the_scale_that_peft_would_apply_is_folded_into_b(tmp_path, settings_, scales):
    path = write_adapter(tmp_path / "a", **settings_)
    stored = load_file(path / WEIGHTS)
    name = {"q_proj": tensor_name(0, "self_attn.q_proj", "B"), "down_proj": tensor_name(1, "mlp.down_proj", "B")}

    for factor in read(path).factors:
        torch.testing.assert_close(factor.b, stored[name[factor.target]] * scales[factor.target])


def test_what_an_adapter_holds_is_told(adapter):
    file = read(adapter)

    assert (file.rank, file.targets, file.parameters) == (4, ("q_proj", "down_proj"), 4 * (16 + 16 + 24 + 16))


def poison(tensors):
    tensors[tensor_name(1, "mlp.down_proj", "B")][3, 1] = math.nan


def drop_half(tensors):
    del tensors[tensor_name(0, "self_attn.q_proj", "B")]


def widen(tensors):
    tensors[tensor_name(0, "self_attn.q_proj", "A")] = torch.zeros(4, 17)


def deepen(tensors):
    for half, shape in (("A", (4, 16)), ("B", (16, 4))):
        tensors[tensor_name(2, "self_attn.q_proj", half)] = torch.zeros(shape)


def rename(tensors):
    tensors["base_model.model.lm_head.lora_A.weight"] = torch.zeros(4, 16)


def empty_rank(tensors):
    tensors[tensor_name(0, "self_attn.q_proj", "A")] = torch.zeros(0, 16)
    tensors[tensor_name(0, "self_attn.q_proj", "B")] = torch.zeros(16, 0)


def raise_rank(tensors):
    tensors[tensor_name(0, "self_attn.q_proj", "A")] = torch.zeros(9, 16)
    tensors[tensor_name(0, "self_attn.q_proj", "B")] = torch.zeros(16, 9)


def scalar(tensors):
    tensors[tensor_name(0, "self_attn.q_proj", "A")] = torch.tensor(1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (poison, r"layers.1.mlp.down_proj.lora_B.weight' holds NaN or infinity"),
        (drop_half, r"q_proj.lora_A.weight' has no partner"),
        (widen, r"q_proj.lora_A.weight' is \[4, 17\]; expected \[4, 16\]"),
        (deepen, r"is of layer 2; expected below 2"),
        (rename, r"lm_head.lora_A.weight' has no place in the model"),
        (empty_rank, r"has rank 0; expected 1 to 8"),
        (raise_rank, r"has rank 9; expected 1 to 8"),
        (scalar, r"expected \[0, 16\]"),
        (dict.clear, r"no LoRA tensors"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named_in_one_line(adapter, change, message):
    edit(adapter, change)

    with pytest.raises(AdapterError, match=message) as caught:
        read(adapter)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "expected the adapter_config.json that PEFT writes"),
        ("[" * 100_000, "expected the adapter_config.json that PEFT writes"),
        ("[]", "not a LoRA configuration"),
        ('{"peft_type": "IA3"}', "not a LoRA configuration"),
        ('{"peft_type": "LORA", "r": 0, "lora_alpha": 1}', "rank r is 0"),
        ('{"peft_type": "LORA", "r": true, "lora_alpha": 1}', "rank r is True"),
        ('{"peft_type": "LORA", "r": 4}', "lora_alpha is None"),
        ('{"peft_type": "LORA", "r": 4, "lora_alpha": 1, "modules_to_save": ["lm_head"]}', "modules_to_save is set"),
        ('{"peft_type": "LORA", "r": 4, "lora_alpha": 1, "use_dora": true}', "has no magnitude"),
        ('{"peft_type": "LORA", "r": 4, "lora_alpha": 1, "lora_bias": true}', "lora_bias is set"),
    ],
)
def test_a_configuration_that_cannot_be_served_is_refused(adapter, text, message):
    (adapter / SETTINGS).write_text(text)

    with pytest.raises(AdapterError, match=message):
        read(adapter)


def test_a_pickle_is_never_opened(adapter):
    (adapter / WEIGHTS).rename(adapter / "adapter_model.bin")

    with pytest.raises(AdapterError, match="a pickle is never opened"):
        read(adapter)


def test_a_header_that_claims_ten_gigabytes_is_refused(adapter):
    (adapter / WEIGHTS).write_bytes((10 << 30).to_bytes(8, "little") + b"{}")

    with pytest.raises(AdapterError, match="expected a complete safetensors file"):
        read(adapter)


def pool_of(tmp_path, names, *, slots=2):
    pool = AdapterPool(CONFIG, slots=slots, rank_max=64, dtype=torch.float32)
    for number, name in enumerate(names):
        pool.register(name, write_adapter(tmp_path / name, rank=4, seed=number))
    return pool


def test_registering_reads_nothing(tmp_path):
    pool = AdapterPool(CONFIG, slots=2, rank_max=64, dtype=torch.float32)
    pool.register("ghost", tmp_path / "absent")

    assert pool.names() == ("ghost",)
    assert pool.resident() == ()
    with pytest.raises(AdapterError, match="absent"):
        pool.acquire("ghost")


def test_an_unknown_name_is_answered_with_the_known_ones(tmp_path):
    pool = pool_of(tmp_path, ["fr", "de"])

    with pytest.raises(AdapterError, match="no such adapter 'es'; adapters: de, fr"):
        pool.acquire("es")


def test_a_referenced_adapter_keeps_its_slot_and_the_idle_one_goes(tmp_path):
    pool = pool_of(tmp_path, ["a", "b", "c"])
    held = pool.acquire("a")
    pool.release(pool.acquire("b"))

    pool.acquire("c")

    assert pool.resident() == ("a", "c")
    with pytest.raises(AdapterBusy, match="2 of 2 adapter slots"):
        pool.acquire("b")
    pool.release(held)
    pool.acquire("b")
    assert pool.resident() == ("b", "c")


def test_an_idle_adapter_of_another_rank_makes_room_too(tmp_path):
    pool = AdapterPool(CONFIG, slots=1, rank_max=64, dtype=torch.float32)
    for name, rank in (("small", 4), ("large", 12)):
        pool.register(name, write_adapter(tmp_path / name, rank=rank))
    pool.release(pool.acquire("small"))

    pool.acquire("large")

    assert pool.resident() == ("large",)


def test_adapters_share_one_budget_of_memory_and_the_idle_ones_make_room(tmp_path):
    one = AdapterWeights(CONFIG, rank=4, dtype=torch.float32).bytes
    pool = AdapterPool(CONFIG, slots=9, rank_max=64, dtype=torch.float32, memory_bytes=3 * one)
    for name, rank in (("a", 4), ("b", 3), ("c", 8), ("d", 16)):
        pool.register(name, write_adapter(tmp_path / name, rank=rank))
    held = pool.acquire("a")
    pool.release(pool.acquire("b"))

    pool.release(pool.acquire("c"))

    assert pool.resident() == ("a", "c")
    assert pool.resident_bytes() == 3 * one
    with pytest.raises(AdapterError, match=f"takes {4 * one} bytes; expected at most {3 * one}"):
        pool.acquire("d")
    pool.acquire("c")
    with pytest.raises(AdapterBusy, match="2 of 9 adapter slots"):
        pool.acquire("b")
    pool.release(held)
    pool.acquire("b")
    assert pool.resident() == ("b", "c")


def test_an_adapter_that_changes_on_disk_is_not_taken_for_the_old_one(tmp_path):
    pool = pool_of(tmp_path, ["a", "b"], slots=1)
    pool.release(pool.acquire("a"))
    pool.release(pool.acquire("b"))
    write_adapter(tmp_path / "a", rank=4, seed=77)

    with pytest.raises(AdapterError, match="changed after it was registered; register it again"):
        pool.acquire("a")
    pool.register("a", tmp_path / "a")
    pool.acquire("a")
    assert pool.resident() == ("a",)


def test_a_digest_and_a_rank_are_told_before_anything_is_resident(tmp_path):
    pool = pool_of(tmp_path, ["a"])

    assert pool.rank("a") == 4
    assert len(pool.digest("a")) == 24
    assert pool.resident() == ()


def test_a_name_registered_again_is_another_generation(tmp_path):
    pool = pool_of(tmp_path, ["a"])
    old_slot, old_digest = pool.acquire("a"), pool.digest("a")

    pool.register("a", write_adapter(tmp_path / "a2", seed=9))

    assert pool.digest("a") != old_digest
    assert pool.acquire("a") != old_slot


class Residency(RuleBasedStateMachine):
    """The pool against a dictionary of references: slots never exceed the limit, a held adapter is never moved."""

    def __init__(self):
        super().__init__()
        self.pool = AdapterPool(CONFIG, slots=3, rank_max=64, dtype=torch.float32)
        for name, file in FILES.items():
            self.pool.register(name, file)
        self.held = []

    @rule(name=st.sampled_from("abcdef"))
    def acquire(self, name):
        names = {held for held, _ in self.held}
        try:
            slot = self.pool.acquire(name)
        except AdapterBusy:
            assert len(names) == 3
            assert name not in names
            return
        assert all((slot == other) == (name == held) for held, other in self.held)
        self.held.append((name, slot))
        assert len({slot for _, slot in self.held}) <= 3

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data):
        _, slot = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        self.pool.release(slot)
        assert self.pool.references() == len(self.held)


FILES: dict = {}
TestResidency = Residency.TestCase
TestResidency.settings = settings(max_examples=40, deadline=None)


@pytest.fixture(scope="module", autouse=True)
def files(tmp_path_factory):
    """Six adapters of two ranks for the state machine."""
    root = tmp_path_factory.mktemp("adapters")
    FILES.update({name: write_adapter(root / name, rank=4 + 8 * (i % 2), seed=i) for i, name in enumerate("abcdef")})


def test_a_pool_reads_in_a_thread_of_its_own_what_it_is_asked_about(tmp_path):
    pool = AdapterPool(CONFIG, slots=2, rank_max=64, dtype=torch.float32)
    pool.register("a", write_adapter(tmp_path / "a", rank=3))
    pool.register("gone", tmp_path / "gone")

    assert pool.is_ready("unknown")
    for name in ("a", "gone"):
        pool.is_ready(name)
    with pytest.raises(AdapterError, match="gone"):
        pool.acquire("gone")
    slot = pool.acquire("a")  # one thread reads in order: what was asked first is there
    assert pool.is_ready("a")
    expected = HostAdapters(CONFIG, dtype=torch.float32).place(3, read(tmp_path / "a", rank_max=64).factors)
    assert all(torch.equal(pool._slots[slot].weights._memory[g], m) for g, m in expected._memory.items())


def test_a_name_registered_again_while_it_is_read_is_the_new_generation(tmp_path):
    pool = AdapterPool(CONFIG, slots=2, rank_max=64, dtype=torch.float32)
    pool.register("a", write_adapter(tmp_path / "old", seed=1))
    pool.is_ready("a")
    pool.register("a", write_adapter(tmp_path / "new", seed=2))
    pool.acquire("a")

    assert pool.digest("a")[:-8] == read(tmp_path / "new", rank_max=64).digest


def test_a_prepared_adapter_is_what_a_slot_holds_and_is_not_copied_again(tmp_path):
    write_adapter(tmp_path / "a", rank=3)
    pool = AdapterPool(CONFIG, slots=2, rank_max=64, dtype=torch.float32)
    read = read_adapter(tmp_path / "a", CONFIG, rank_max=64)
    placed = HostAdapters(CONFIG, dtype=torch.float32).place(read.rank, read.factors)

    prepared = pool.prepare(read)
    pool.read_through(lambda _: prepared)
    pool.register("a", tmp_path / "a")
    slot = pool.acquire("a")

    assert (prepared.factors, prepared.rank, prepared.digest) == ((), read.rank, read.digest)
    assert pool._slots[slot].weights is prepared.weights
    assert pool.resident_bytes() == placed.bytes
    for group, memory in placed._memory.items():
        assert torch.equal(prepared.weights._memory[group], memory)
