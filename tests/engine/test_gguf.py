"""GGUF files written here in every supported kind, against what transformers reads from the same file; and lies."""

import struct
from contextlib import suppress

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from llmsys.engine.errors import ModelError
from llmsys.engine.gguf import ARRAY_MAX, KINDS, GgufFile
from llmsys.engine.loader import load_decoder

HIDDEN, MLP, HEADS, KV_HEADS, VOCAB = 64, 96, 4, 2, 70
HEAD_DIM = HIDDEN // HEADS
BLOCK = {
    "attn_norm.weight": (HIDDEN,),
    "attn_q.weight": (HIDDEN, HIDDEN),
    "attn_k.weight": (KV_HEADS * HEAD_DIM, HIDDEN),
    "attn_v.weight": (KV_HEADS * HEAD_DIM, HIDDEN),
    "attn_output.weight": (HIDDEN, HIDDEN),
    "ffn_norm.weight": (HIDDEN,),
    "ffn_gate.weight": (MLP, HIDDEN),
    "ffn_up.weight": (MLP, HIDDEN),
    "ffn_down.weight": (HIDDEN, MLP),
}
SHAPES = {"token_embd.weight": (VOCAB, HIDDEN), "output_norm.weight": (HIDDEN,)} | {
    f"blk.{layer}.{name}": shape for layer in range(2) for name, shape in BLOCK.items()
}
SIZES = {
    "context_length": 128,
    "embedding_length": HIDDEN,
    "block_count": 2,
    "feed_forward_length": MLP,
    "attention.head_count": HEADS,
    "attention.head_count_kv": KV_HEADS,
    "rope.dimension_count": HEAD_DIM,
}


def write_gguf(path, kind="F32", *, architecture="llama", shapes=SHAPES, sizes=SIZES, extra=()):
    """A random model of one architecture; matrices are of `kind`, vectors float32."""
    random = np.random.default_rng(7)
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in sizes.items():
        writer.add_uint32(f"{architecture}.{key}", value)
    writer.add_float32(f"{architecture}.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add_float32(f"{architecture}.rope.freq_base", 10000.0)
    writer.add_token_list([f"t{i}" for i in range(VOCAB)])
    for add, key, value in extra:
        getattr(writer, add)(key, value)
    for name, shape in shapes.items():
        values = random.normal(size=shape).astype(np.float32)
        stored = gguf.GGMLQuantizationType[kind if len(shape) > 1 else "F32"]
        writer.add_tensor(name, gguf.quantize(values, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def load(path):
    return load_decoder(path, device=torch.device("cpu"), dtype=torch.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_every_kind_are_bit_for_bit_those_that_transformers_reads(tmp_path, kind):
    path = write_gguf(tmp_path / "model.gguf", kind)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name, dtype=torch.float32).state_dict()

    ours = dict(GgufFile(path).tensors())

    assert ours.keys() == theirs.keys() - {"lm_head.weight"}
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_only_llama_stores_its_query_rows_interleaved(tmp_path, architecture):
    path = write_gguf(tmp_path / "model.gguf", architecture=architecture)
    stored = next(t.data for t in gguf.GGUFReader(path).tensors if t.name == "blk.0.attn_q.weight")

    found = dict(GgufFile(path).tensors())["model.layers.0.self_attn.q_proj.weight"]

    assert torch.equal(found, torch.from_numpy(stored.copy())) == (architecture != "llama")


def test_biases_of_llama_are_interleaved_like_their_rows(tmp_path):
    shapes = SHAPES | {"blk.0.attn_q.bias": (HIDDEN,)}
    path = write_gguf(tmp_path / "model.gguf", shapes=shapes)
    stored = next(t.data for t in gguf.GGUFReader(path).tensors if t.name == "blk.0.attn_q.bias")

    found = dict(GgufFile(path).tensors())["model.layers.0.self_attn.q_proj.bias"].view(HEADS, 2, HEAD_DIM // 2)

    for head in range(HEADS):
        pairs = stored.reshape(HEADS, HEAD_DIM // 2, 2)[head]
        assert np.array_equal(found[head].numpy(), pairs.T)


def test_fields_that_llama_cpp_may_leave_out_have_its_defaults(tmp_path):
    sizes = {key: value for key, value in SIZES.items() if key != "attention.head_count_kv"}
    shapes = SHAPES | {f"blk.{i}.attn_{n}.weight": (HIDDEN, HIDDEN) for i in range(2) for n in "kv"}

    config = load(write_gguf(tmp_path / "model.gguf", shapes=shapes, sizes=sizes)).config

    assert (config.kv_heads, config.head_dim) == (HEADS, HEAD_DIM)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "Q5_0"}, "is Q5_0; expected one of F32, F16, BF16, Q4_0, Q4_1, Q8_0"),
        ({"architecture": "gemma"}, "architecture 'gemma'; expected one of llama, qwen2, qwen3"),
        ({"sizes": SIZES | {"attention.head_count": 0}}, "num_attention_heads 0; expected a whole number"),
        ({"sizes": SIZES | {"attention.head_count": 7}}, "expected"),
        ({"sizes": SIZES | {"context_length": 0xFFFFFFFF}}, "max_position_embeddings 4294967295; expected"),
        ({"sizes": SIZES | {"rope.dimension_count": 8}}, "rotates 8 of 16"),
        ({"shapes": SHAPES | {"token_embd.weight": (VOCAB,)}}, r"'token_embd.weight' is \[70\]; expected a matrix"),
        ({"shapes": SHAPES | {"rope_freqs.weight": (8,)}}, "'rope_freqs.weight' has no place in the decoder"),
        ({"shapes": SHAPES | {"blk.x.attn_q.weight": (8, 32)}}, "'blk.x.attn_q.weight' has no place"),
        ({"shapes": SHAPES | {"blk.0.attn_q.weight": (60, HIDDEN)}}, "has 60 rows; expected a multiple of 8"),
        ({"shapes": SHAPES | {"blk.0.attn_output.bias": (HIDDEN,)}}, "o_proj.bias' has no place in the decoder"),
        ({"extra": [("add_string", "llama.rope.scaling.type", "yarn")]}, "rope scaling 'yarn'; expected one of"),
        ({"extra": [("add_string", "llama.rope.scaling.type", "linear")]}, "config has factor None"),
        ({"extra": [("add_string", "llama.attention.key_length", "wide")]}, "config has head_dim 'wide'"),
    ],
)
def test_a_file_that_another_computation_belongs_to_is_refused(tmp_path, changes, message):
    path = write_gguf(tmp_path / "model.gguf", **changes)

    with pytest.raises(ModelError, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value)


def text(value):
    return struct.pack("<Q", len(value)) + value


def header(fields, count=1):
    return b"GGUF" + struct.pack("<IQQ", 3, 0, count) + fields


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (header(text(b"x") + struct.pack("<IIQ", 9, 0, 1 << 40)), f"array of {1 << 40} elements at offset 37"),
        (header(text(b"x") + struct.pack("<IIQ", 9, 0, ARRAY_MAX)), "bytes wanted at offset 49, the file has 49"),
        (header(text(b"x") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 3000), "array of ARRAY at offset 49"),
        (header(struct.pack("<Q", 1 << 62)), "bytes wanted at offset 32, the file has 32"),
        (header(b"", count=1 << 60), "8 bytes wanted at offset 24, the file has 24"),
        (header(text(b"general.architecture") + struct.pack("<I", 8) + text(b"\xff\xfe")), "expected UTF-8"),
        (header(text(b"general.architecture") + struct.pack("<II", 4, 7)), "architecture '7'; expected one of"),
    ],
)
def test_a_header_that_lies_is_refused_at_its_offset_before_memory_is_taken(tmp_path, content, message):
    path = tmp_path / "model.gguf"
    path.write_bytes(content)

    with pytest.raises(ModelError, match=message):
        load(path)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A sound file, its bytes, and where its weights begin."""
    path = write_gguf(tmp_path_factory.mktemp("sound") / "model.gguf", "Q8_0")
    return path.read_bytes(), gguf.GGUFReader(path).data_offset


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_changed_header_byte_never_escapes_as_another_error(sound, tmp_path_factory, data):
    content, weights = sound
    changed = bytearray(content)
    for offset in data.draw(st.lists(st.integers(0, weights - 1), min_size=1, max_size=3)):
        changed[offset] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("changed") / "model.gguf"
    path.write_bytes(changed)

    with suppress(ModelError):
        assert load(path).config.hidden == HIDDEN


@settings(max_examples=60, deadline=None)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_anywhere_is_refused(sound, tmp_path_factory, share):
    content, _ = sound
    path = tmp_path_factory.mktemp("cut") / "model.gguf"
    path.write_bytes(content[: int(share * len(content))])

    with pytest.raises(ModelError, match="expected GGUF version 2 or 3"):
        load(path)
