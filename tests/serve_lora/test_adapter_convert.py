"""An adapter goes to GGUF, back, and into its base model without a bit of difference; hostile files are named."""

import shutil

import gguf
import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from llmsys.engine.adapter_files import read_adapter
from llmsys.engine.errors import AdapterError
from llmsys.engine.loader import read_config
from llmsys.errors import BadInput, UsageFault
from llmsys.serve_lora.adapter_check import check_adapters, raise_first_fault
from llmsys.serve_lora.adapter_convert import convert_adapter
from llmsys.serve_lora.adapter_merge import merge_adapter
from llmsys.serve_lora.reference_model import load_reference

PATTERNS = {"rank_pattern": {"layers.1.self_attn.q_proj": 3}, "alpha_pattern": {"layers.0.mlp.down_proj": 5}}


@pytest.fixture(scope="module")
def shape(tiny_model):
    return read_config(tiny_model)


def peft_adapter(tiny_model, path, **settings):
    """An adapter that PEFT itself wrote, its B matrices not zero."""
    model = load_reference(str(tiny_model), torch.float32).model
    torch.manual_seed(0)
    given = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "k_proj", "o_proj", "down_proj"]} | settings
    wrapped = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False, **given))
    wrapped.save_pretrained(path, save_embedding_layers=False)
    return path


@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}, PATTERNS, {"target_modules": ["v_proj", "gate_proj"]}])
def test_to_gguf_and_back_is_the_same_adapter(tiny_model, shape, tmp_path, settings):
    source = peft_adapter(tiny_model, tmp_path / "fr", **settings)

    convert_adapter(source, tmp_path / "fr.gguf", shape)
    convert_adapter(tmp_path / "fr.gguf", tmp_path / "back", shape)

    before, after = (read_adapter(path, shape, rank_max=8) for path in (source, tmp_path / "back"))
    assert [(f.layer, f.target) for f in before.factors] == [(f.layer, f.target) for f in after.factors]
    for old, new in zip(before.factors, after.factors, strict=True):
        torch.testing.assert_close(new.b @ new.a, old.b @ old.a, rtol=1e-6, atol=1e-7)


def test_a_gguf_lora_says_what_llama_cpp_asks_for(tiny_model, shape, tmp_path):
    source = peft_adapter(tiny_model, tmp_path / "fr")

    convert_adapter(source, tmp_path / "fr.gguf", shape)

    reader = gguf.GGUFReader(tmp_path / "fr.gguf")
    fields = {key: field.contents() for key, field in reader.fields.items()}
    assert (fields["general.type"], fields["adapter.type"], fields["adapter.lora.alpha"]) == ("adapter", "lora", 4.0)
    shapes = {entry.name: list(map(int, entry.shape)) for entry in reader.tensors}
    assert shapes["blk.0.attn_q.weight.lora_a"] == [32, 4]
    assert shapes["blk.1.attn_k.weight.lora_b"] == [4, 16]


def test_q_rows_are_paired_as_llama_cpp_rotates_them(tiny_model, shape, tmp_path):
    source = peft_adapter(tiny_model, tmp_path / "fr")
    factor = next(f for f in read_adapter(source, shape, rank_max=8).factors if f.target == "q_proj")

    convert_adapter(source, tmp_path / "fr.gguf", shape)

    entry = next(e for e in gguf.GGUFReader(tmp_path / "fr.gguf").tensors if e.name == "blk.0.attn_q.weight.lora_b")
    stored = np.asarray(entry.data).reshape(32, 4)
    half = shape.head_dim // 2
    assert np.array_equal(stored[1], factor.b[half].numpy())
    assert np.array_equal(stored[shape.head_dim], factor.b[shape.head_dim].numpy())


@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}, PATTERNS])
def test_a_merged_model_is_pefts_merged_model(tiny_model, tmp_path, settings):
    source = peft_adapter(tiny_model, tmp_path / "fr", **settings)

    merge_adapter(source, tmp_path / "merged", model=str(tiny_model), dtype=torch.float32)

    base = load_reference(str(tiny_model), torch.float32).model
    expected = PeftModel.from_pretrained(base, source).merge_and_unload().state_dict()
    actual = load_reference(str(tmp_path / "merged"), torch.float32).model.state_dict()
    assert expected.keys() == actual.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(actual[name], tensor, rtol=1e-6, atol=1e-6)


def test_an_adapter_that_does_not_fit_is_not_merged(tiny_model, shipped, tmp_path):
    with pytest.raises(AdapterError, match="expected"):
        merge_adapter(shipped / "json", tmp_path / "merged", model=str(tiny_model), dtype=torch.float32)

    assert list(tmp_path.iterdir()) == []


def test_check_reports_every_adapter_and_fails_for_the_broken_one(tiny_model, shape, tmp_path):
    peft_adapter(tiny_model, tmp_path / "all" / "good")
    shutil.copytree(tmp_path / "all" / "good", tmp_path / "all" / "cut")
    weights = tmp_path / "all" / "cut" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    shutil.copytree(tmp_path / "all" / "good", tmp_path / "all" / "bad name")

    reports = check_adapters(tmp_path / "all", shape)

    assert [(one.name, one.state) for one in reports] == [("bad name", "broken"), ("cut", "broken"), ("good", "ok")]
    assert (reports[2].rank, reports[2].targets) == (4, "q,k,o,down")
    with pytest.raises(AdapterError, match=r"bad name.*\(and 1 more\)"):
        raise_first_fault(reports)
    raise_first_fault(reports[2:])


def gguf_lora(path, tensors, *, kind="lora", architecture="llama", alpha=4.0):
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_string("adapter.type", kind)
    writer.add_float32("adapter.lora.alpha", alpha)
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


A, B = np.ones((4, 32), np.float32), np.ones((32, 4), np.float32)
STEM = "blk.0.attn_q.weight"


@pytest.mark.parametrize(
    ("tensors", "settings", "named"),
    [
        ({}, {}, "no factor"),
        ({f"{STEM}.lora_a": A}, {}, STEM),
        ({f"{STEM}.lora_a": A, f"{STEM}.lora_b": B[:, :3].copy()}, {}, STEM),
        ({f"{STEM}.lora_a": A, f"{STEM}.lora_b": B[:24].copy()}, {}, "24 rows"),
        ({"blk.0.attn_q.weight.lora_c": A}, {}, "lora_c"),
        ({"token_embd.weight.lora_a": A}, {}, "token_embd"),
        ({f"{STEM}.lora_a": A, f"{STEM}.lora_b": B}, {"kind": "aora"}, "not a LoRA"),
        ({f"{STEM}.lora_a": A, f"{STEM}.lora_b": B}, {"architecture": "qwen2"}, "not a LoRA"),
        ({f"{STEM}.lora_a": A.astype(np.int8), f"{STEM}.lora_b": B}, {}, "I8"),
    ],
)
def test_a_gguf_file_that_is_no_lora_of_this_model_is_named(shape, tmp_path, tensors, settings, named):
    source = gguf_lora(tmp_path / "x.gguf", tensors, **settings)

    with pytest.raises(BadInput, match=named):
        convert_adapter(source, tmp_path / "back", shape)
    assert not (tmp_path / "back").exists()


def test_without_alpha_the_factors_count_as_they_are(shape, tmp_path):
    source = gguf_lora(tmp_path / "x.gguf", {f"{STEM}.lora_a": A, f"{STEM}.lora_b": B}, alpha=0.0)

    convert_adapter(source, tmp_path / "back", shape)

    (factor,) = read_adapter(tmp_path / "back", shape, rank_max=8).factors
    assert torch.equal(factor.b @ factor.a, torch.full((32, 32), 4.0))


@pytest.mark.parametrize("cut", [0, 3, 100, -40])
def test_a_cut_gguf_file_is_refused(tiny_model, shape, tmp_path, cut):
    convert_adapter(peft_adapter(tiny_model, tmp_path / "fr"), tmp_path / "fr.gguf", shape)
    whole = (tmp_path / "fr.gguf").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[:cut])

    with pytest.raises(BadInput, match=r"cut\.gguf"):
        convert_adapter(tmp_path / "cut.gguf", tmp_path / "back", shape)


@pytest.mark.parametrize(("source", "destination"), [("a", "b"), ("a.gguf", "b.gguf")])
def test_a_conversion_is_between_the_two_formats(shape, tmp_path, source, destination):
    with pytest.raises(UsageFault, match="exactly one"):
        convert_adapter(tmp_path / source, tmp_path / destination, shape)


def test_a_conversion_writes_over_nothing(tiny_model, shape, tmp_path):
    source = peft_adapter(tiny_model, tmp_path / "fr")
    (tmp_path / "fr.gguf").write_text("mine")

    with pytest.raises(UsageFault, match="exists"):
        convert_adapter(source, tmp_path / "fr.gguf", shape)
    assert (tmp_path / "fr.gguf").read_text() == "mine"
