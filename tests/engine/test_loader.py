"""Model files that are not what they claim: one ModelError each, naming the file and what would be right."""

import json
import shutil
from contextlib import suppress

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from llmsys.engine.errors import ModelError
from llmsys.engine.loader import load_decoder
from llmsys.gpu import find_model

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny")
    config = LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(path)
    return path


@pytest.fixture
def copy(tiny, tmp_path):
    return shutil.copytree(tiny, tmp_path / "model")


def load(path):
    return load_decoder(path, device=CPU, dtype=torch.float32)


def edit_config(path, **changes):
    config = json.loads((path / "config.json").read_text())
    config |= changes
    (path / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def test_an_unknown_architecture_is_refused_with_the_list(copy):
    edit_config(copy, model_type="mamba")

    with pytest.raises(ModelError, match="'mamba'; expected one of llama, qwen2, qwen3"):
        load(copy)


def test_a_missing_tensor_is_named_with_its_shape(copy):
    tensors = load_file(copy / "model.safetensors")
    del tensors["model.layers.0.mlp.up_proj.weight"]
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(ModelError, match=r"no tensor '\S*.mlp.up_proj.weight'; expected one of shape \[24, 16\]"):
        load(copy)


def test_a_wrong_shape_is_named_with_both_shapes(copy):
    tensors = load_file(copy / "model.safetensors")
    tensors["model.norm.weight"] = torch.ones(17)
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(ModelError, match=r"'model.norm.weight' is \[17\]; expected \[16\]"):
        load(copy)


@pytest.mark.parametrize("missing", ["hidden_size", "num_hidden_layers", "rms_norm_eps", "vocab_size"])
def test_a_config_without_a_needed_field_is_refused(copy, missing):
    edit_config(copy, **{missing: None})

    with pytest.raises(ModelError, match=missing):
        load(copy)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"llama"', '{"model_type": 5}'])
def test_a_config_that_is_no_object_is_refused(copy, text):
    (copy / "config.json").write_text(text)

    with pytest.raises(ModelError, match="expected"):
        load(copy)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_attention_heads": 0},
        {"hidden_size": -16},
        {"vocab_size": "many"},
        {"head_dim": 3.5},
        {"rms_norm_eps": "x"},
    ],
)
def test_a_config_with_nonsense_sizes_is_refused_by_name(copy, changes):
    edit_config(copy, **changes)

    with pytest.raises(ModelError, match=rf"{next(iter(changes))} .*; expected"):
        load(copy)


def test_a_truncated_safetensors_file_is_refused(copy):
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-7])

    with pytest.raises(ModelError, match="expected a complete safetensors file"):
        load(copy)


@settings(max_examples=60, deadline=None)
@given(offset=st.integers(0, 400), value=st.integers(0, 255))
def test_a_flipped_byte_in_a_safetensors_header_never_escapes_as_another_error(tiny, tmp_path_factory, offset, value):
    copy = shutil.copytree(tiny, tmp_path_factory.mktemp("flipped") / "model")
    file = copy / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[offset] = value
    file.write_bytes(content)

    with suppress(ModelError):
        assert load(copy).config.layers == 1


def test_a_directory_without_weights_and_a_path_without_a_file_are_refused(copy, tmp_path):
    (copy / "model.safetensors").unlink()

    with pytest.raises(ModelError, match=r"no model\.safetensors and no shards"):
        load(copy)
    with pytest.raises(ModelError, match="no such model"):
        load(tmp_path / "absent.gguf")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"attention_bias": True}, r"o_proj.bias' has no place in the decoder"),
        ({"mlp_bias": True}, r"mlp.down_proj.bias' has no place in the decoder"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'; expected 'silu'"),
    ],
)
def test_a_model_that_computes_something_else_is_refused_and_not_approximated(tmp_path, setting, message):
    config = LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, **setting
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path)

    with pytest.raises(ModelError, match=message):
        load(tmp_path)


@pytest.mark.parametrize(
    ("rope", "message"),
    [
        ({"rope_type": "yarn", "factor": 4.0}, "rope scaling 'yarn'; expected one of default, linear, llama3"),
        ({"type": "dynamic", "factor": 4.0}, "rope scaling 'dynamic'"),
        ({"rope_type": "linear"}, "factor None; expected a number above 0"),
        ({"rope_type": "llama3", "factor": 8.0}, "low_freq_factor None"),
        ("linear", "rope settings 'linear'; expected an object"),
    ],
)
def test_rotation_that_the_decoder_does_not_know_is_refused_also_under_its_old_name(copy, rope, message):
    edit_config(copy, rope_parameters=None, rope_scaling=rope)

    with pytest.raises(ModelError, match=message):
        load(copy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5; expected 1.0"),
        ({"use_sliding_window": True}, "use_sliding_window True; expected False"),
        ({"max_position_embeddings": 1 << 40}, "max_position_embeddings 1099511627776; expected a whole number"),
    ],
)
def test_settings_that_would_change_the_computation_or_take_all_memory_are_refused(copy, changes, message):
    edit_config(copy, **changes)

    with pytest.raises(ModelError, match=message):
        load(copy)


def test_an_untied_model_without_its_head_is_refused(copy):
    tensors = load_file(copy / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(ModelError, match=r"no tensor 'lm_head.weight'; expected one of shape \[64, 16\]"):
        load(copy)


def test_a_tied_head_that_is_stored_again_is_the_embedding(copy):
    edit_config(copy, tie_word_embeddings=True)

    decoder = load(copy)

    assert torch.equal(decoder.head.dense(), decoder.embedding)


def test_other_layouts_of_the_weights_in_the_directory_are_not_read(copy):
    save_file({"layers.0.attention.wq.weight": torch.ones(2)}, copy / "consolidated.safetensors")

    assert load(copy).config.layers == 1


def gguf_bytes():
    return find_model("smollm2").read_bytes()[:4_000_000]


def test_a_truncated_or_foreign_gguf_file_is_refused(tmp_path):
    file = tmp_path / "model.gguf"
    for content in (b"", b"GGUF", b"not a model at all, but long enough to look like one" * 9, gguf_bytes()):
        file.write_bytes(content)
        with pytest.raises(ModelError, match="expected"):
            load(file)


@pytest.mark.parametrize("offset", [4, 8, 16, 24, 32, 40, 60, 64])
def test_a_gguf_header_whose_counts_lie_is_refused_before_memory_is_taken(tmp_path, offset):
    content = bytearray(gguf_bytes()[:200_000])
    content[offset : offset + 8] = b"\xff" * 7 + b"\x7f"
    file = tmp_path / "model.gguf"
    file.write_bytes(content)

    with pytest.raises(ModelError, match=r"model\.gguf"):
        load(file)
