"""The cache of converted models: what comes out is what went in, and damage, rivals and full disks change no answer."""

import logging
import os

import gguf
import numpy as np
import pytest
import torch
from tokenizers.pre_tokenizers import ByteLevel

from llmsys.engine.errors import ModelError
from llmsys.engine.int4 import Codes
from llmsys.engine.loader import load_model
from llmsys.engine.model_cache import ModelCache, identify
from llmsys.engine.named_weights import fuse

CHAT = [{"role": "user", "content": "Is the heath there?"}]
CPU = torch.device("cpu")


@pytest.fixture
def cache(tmp_path):
    return ModelCache(tmp_path / "cache" / "models", limit_bytes=1 << 30)


def fill(cache, key, content=b"weights", name="model.safetensors"):
    with cache.keep(key) as place:
        (place / name).write_bytes(content)
        (place / "config.json").write_text("{}")
    return cache.find(key)


def entries(cache):
    return sorted(path.name for path in cache._root.iterdir())


def test_an_entry_is_found_with_what_was_written(cache):
    assert cache.find("a") is None

    entry = fill(cache, "a")

    assert (entry / "model.safetensors").read_bytes() == b"weights"


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "sums.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_a_damaged_entry_is_removed_and_said_so(cache, caplog, name, damage):
    entry = fill(cache, "a", content=b"w" * 300)
    content = bytearray((entry / name).read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "gone":
        (entry / name).unlink()
    else:
        (entry / name).write_bytes(content if damage == "flipped" else content[: len(content) // 2])

    with caplog.at_level(logging.WARNING):
        found = cache.find("a")

    assert found is None
    assert not entry.exists()
    assert "damaged" in caplog.text
    assert fill(cache, "a") is not None


def test_a_write_that_fails_leaves_nothing(cache):
    def write_half():
        with cache.keep("a") as place:
            (place / "model.safetensors").write_bytes(b"half")
            raise OSError("disk is full")

    with pytest.raises(OSError, match="disk"):
        write_half()

    assert cache.find("a") is None
    assert entries(cache) == []


def test_the_least_recently_used_entries_make_room(tmp_path):
    cache = ModelCache(tmp_path, limit_bytes=30_000)
    for age, key in enumerate("abc"):
        os.utime(fill(cache, key, content=b"x" * 8_000), (age, age))
    os.utime(cache.find("a"), (9, 9))

    fill(cache, "d", content=b"x" * 8_000)

    assert entries(cache) == ["a", "c", "d"]


def test_an_entry_larger_than_the_limit_stays_until_the_next(tmp_path):
    cache = ModelCache(tmp_path, limit_bytes=100)

    fill(cache, "a", content=b"x" * 8_000)
    assert entries(cache) == ["a"]
    fill(cache, "b", content=b"x" * 8_000)

    assert entries(cache) == ["b"]


def test_what_a_killed_writer_left_goes_when_room_is_needed(tmp_path):
    cache = ModelCache(tmp_path, limit_bytes=5_000)
    (tmp_path / ".a.0011.tmp").mkdir()
    (tmp_path / ".a.0011.tmp" / "model.safetensors").write_bytes(b"x" * 8_000)
    os.utime(tmp_path / ".a.0011.tmp", (1, 1))

    fill(cache, "b")

    assert entries(cache) == ["b"]


def test_a_second_writer_of_the_same_entry_replaces_it_whole(cache):
    fill(cache, "a", content=b"old")

    assert (fill(cache, "a", content=b"new") / "model.safetensors").read_bytes() == b"new"


def test_a_key_changes_with_the_file_its_time_and_its_use(tmp_path):
    file = tmp_path / "model.gguf"
    file.write_bytes(b"a" * 4096)
    os.utime(file, (5, 5))
    first = identify(file, "bf16")
    keys = {first, identify(file, "f32")}
    file.write_bytes(b"a" * 4095 + b"b")
    os.utime(file, (5, 5))
    keys.add(identify(file, "bf16"))
    os.utime(file, (6, 6))
    keys.add(identify(file, "bf16"))

    assert len(keys) == 4
    assert identify(file, "bf16") in keys - {first}


HIDDEN, VOCAB = 32, 261
MATRICES = {
    "attn_q": (HIDDEN, HIDDEN),
    "attn_k": (HIDDEN, HIDDEN),
    "attn_v": (HIDDEN, HIDDEN),
    "attn_output": (HIDDEN, HIDDEN),
    "ffn_gate": (64, HIDDEN),
    "ffn_up": (64, HIDDEN),
    "ffn_down": (HIDDEN, 64),
}
SIZES = {
    "context_length": 64,
    "embedding_length": HIDDEN,
    "block_count": 2,
    "feed_forward_length": 64,
    "attention.head_count": 2,
}


@pytest.fixture
def tiny(tmp_path):
    """A random model of two layers with a tokenizer of bytes, as one GGUF file."""
    random = np.random.default_rng(3)
    path = tmp_path / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in SIZES.items():
        writer.add_uint32(f"llama.{key}", value)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([*ByteLevel.alphabet(), "th", "he", "the", "<|im_start|>", "<|im_end|>"])
    writer.add_token_types([1] * 259 + [3, 3])
    writer.add_token_merges(["t h", "h e", "th e"])
    writer.add_bos_token_id(259)
    writer.add_eos_token_id(260)
    writer.add_chat_template("{% for m in messages %}{{ bos_token + m['content'] + eos_token }}{% endfor %}")
    shapes = {"token_embd": (VOCAB, HIDDEN), "output_norm": (HIDDEN,)}
    for layer in range(2):
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in MATRICES.items()}
        shapes |= {f"blk.{layer}.{name}": (HIDDEN,) for name in ("attn_norm", "ffn_norm")}
    for name, shape in shapes.items():
        kind = gguf.GGMLQuantizationType.Q4_1 if len(shape) > 1 else gguf.GGMLQuantizationType.F32
        values = random.normal(size=shape).astype(np.float32)
        writer.add_tensor(f"{name}.weight", gguf.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def weights_of(model):
    decoder = model.decoder
    layers = [getattr(layer, name).dense() for layer in decoder.layers for name in ("qkv", "o", "gate_up", "down")]
    return [decoder.embedding, decoder.norm, decoder.head.dense(), *layers]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_from_the_cache_is_the_model_from_the_file(cache, tiny, dtype, monkeypatch):
    direct = load_model(tiny, device=CPU, dtype=dtype)
    first = load_model(tiny, device=CPU, dtype=dtype, cache=cache)
    monkeypatch.setattr("llmsys.engine.loader.GgufFile", None)
    monkeypatch.setattr("llmsys.engine.tokens.Tokenizer.load", None)
    again = load_model(tiny, device=CPU, dtype=dtype, cache=cache)

    for model in (first, again):
        assert model.config == direct.config
        assert model.digest == direct.digest
        assert model.tokenizer.eos_ids == direct.tokenizer.eos_ids
        assert model.tokenizer.encode("the theatre") == direct.tokenizer.encode("the theatre")
        assert model.tokenizer.apply_chat(CHAT) == direct.tokenizer.apply_chat(CHAT)
        assert all(torch.equal(a, b) for a, b in zip(weights_of(model), weights_of(direct), strict=True))


def test_a_damaged_cached_model_is_made_anew_from_the_file(cache, tiny):
    direct = load_model(tiny, device=CPU, dtype=torch.float32, cache=cache)
    file = next(cache._root.glob("*/model.safetensors"))
    sound = file.read_bytes()
    file.write_bytes(sound[:-3] + bytes([sound[-3] ^ 64]) + sound[-2:])

    again = load_model(tiny, device=CPU, dtype=torch.float32, cache=cache)

    assert all(torch.equal(a, b) for a, b in zip(weights_of(again), weights_of(direct), strict=True))
    assert file.read_bytes() == sound


def test_codes_from_the_cache_multiply_with_the_same_bits_and_are_not_laid_out_again(cache, tiny, monkeypatch):
    direct = load_model(tiny, device=CPU, dtype=torch.bfloat16, cache=cache, four_bit=True)
    monkeypatch.setattr(torch, "_convert_weight_to_int4pack_for_cpu", None)

    again = load_model(tiny, device=CPU, dtype=torch.bfloat16, cache=cache, four_bit=True)

    for first, second in zip(direct.decoder.layers, again.decoder.layers, strict=True):
        for name in ("qkv", "o", "gate_up", "down"):
            here, there = getattr(first, name), getattr(second, name)
            for rows in (1, 20):
                x = torch.randn(rows, here.in_features).bfloat16()
                assert torch.equal(here(x), there(x))
            assert here._few is not None
            assert there._few is not None


def test_matrices_of_which_only_some_have_codes_are_joined_without_them():
    prefix = "model.layers.3.mlp."
    codes = Codes.nearest(torch.randn(16, 32))
    found = fuse(
        {
            prefix + "gate_proj.weight": torch.ones(16, 32),
            prefix + "gate_proj.weight.nibbles": codes.nibbles,
            prefix + "gate_proj.weight.scales": codes.scales,
            prefix + "up_proj.weight": torch.zeros(16, 32),
            "model.norm.weight": torch.ones(32),
        }
    )

    assert set(found) == {f"{prefix}gate_proj+{prefix}up_proj.weight", "model.norm.weight"}
    assert found[f"{prefix}gate_proj+{prefix}up_proj.weight"].sum(1).tolist() == [32.0] * 16 + [0.0] * 16


def test_a_cache_that_cannot_be_written_costs_a_warning_and_nothing_else(tmp_path, tiny, caplog):
    (tmp_path / "file").write_bytes(b"")

    with caplog.at_level(logging.WARNING):
        model = load_model(
            tiny, device=CPU, dtype=torch.float32, cache=ModelCache(tmp_path / "file", limit_bytes=1 << 30)
        )

    assert model.config.layers == 2
    assert "not cached" in caplog.text


def test_a_missing_model_is_refused_before_the_cache_is_asked(cache, tmp_path):
    with pytest.raises(ModelError, match="no such model"):
        load_model(str(tmp_path / "gone.gguf"), device=CPU, dtype=torch.float32, cache=cache)


def test_the_users_cache_is_where_xdg_says(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    fill(ModelCache.of_user(limit_bytes=1 << 20), "a")

    assert (tmp_path / "llmsys" / "models" / "a" / "manifest.json").exists()
