"""Every field of a GGUF and of a safetensors header set to hostile values: a ModelError, or the model as it was.

Unlike a changed byte, a changed field keeps the header's form, so that what reads behind it is reached.
"""

import json
import struct

import gguf
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from llmsys.engine.errors import ModelError
from llmsys.engine.loader import load_decoder

HIDDEN = 64
HOSTILE = (0, 1, 7, 1 << 16, (1 << 31) - 1, 1 << 31, 1 << 32, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
STRING, ARRAY = 8, 9
CPU = torch.device("cpu")


class Walk:
    """Reads a GGUF header and notes where its numbers are: (name, offset, bytes)."""

    def __init__(self, content):
        self.content, self.at, self.fields = content, 0, []

    def number(self, name, width):
        value = int.from_bytes(self.content[self.at : self.at + width], "little")
        self.fields.append((name, self.at, width))
        self.at += width
        return value

    def string(self, name):
        length = self.number(f"length of {name}", 8)
        self.at += length

    def value(self, name, kind):
        if kind == STRING:
            self.string(name)
        elif kind == ARRAY:
            inner, count = self.number(f"kind in {name}", 4), self.number(f"count of {name}", 8)
            for index in range(count):
                self.value(f"{name}[{index}]", inner)
        else:
            self.number(f"value of {name}", WIDTHS[kind])

    def header(self):
        self.number("magic", 4)
        self.number("version", 4)
        tensors, entries = self.number("tensors", 8), self.number("entries", 8)
        for entry in range(entries):
            self.string(f"key {entry}")
            self.value(f"entry {entry}", self.number(f"kind of entry {entry}", 4))
        for tensor in range(tensors):
            self.string(f"name {tensor}")
            for axis in range(self.number(f"axes of tensor {tensor}", 4)):
                self.number(f"size {axis} of tensor {tensor}", 8)
            self.number(f"kind of tensor {tensor}", 4)
            self.number(f"offset of tensor {tensor}", 8)
        return self.fields


def write_gguf(path):
    """A model of one layer in Q4_1, with an array of strings and one of numbers."""
    writer = gguf.GGUFWriter(path, "llama")
    sizes = {"context_length": 128, "embedding_length": HIDDEN, "block_count": 1, "feed_forward_length": 96}
    for key, value in (sizes | {"attention.head_count": 4, "attention.head_count_kv": 2}).items():
        writer.add_uint32(f"llama.{key}", value)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add_float32("llama.rope.freq_base", 10000.0)
    writer.add_token_list([f"t{index}" for index in range(4)])
    writer.add_array("tokenizer.ggml.token_type", [1, 1, 3, 1])
    matrices = {f"attn_{name}": (rows, HIDDEN) for name, rows in (("q", 64), ("k", 32), ("v", 32), ("output", 64))}
    matrices |= {"ffn_gate": (96, HIDDEN), "ffn_up": (96, HIDDEN), "ffn_down": (HIDDEN, 96)}
    shapes = {"token_embd.weight": (40, HIDDEN), "output_norm.weight": (HIDDEN,)}
    shapes |= {f"blk.0.{name}.weight": shape for name, shape in matrices.items()}
    shapes |= {f"blk.0.{name}_norm.weight": (HIDDEN,) for name in ("attn", "ffn")}
    for name, shape in shapes.items():
        values = torch.randn(shape).numpy()
        kind = gguf.GGMLQuantizationType["Q4_1" if len(shape) > 1 else "F32"]
        writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    return path


def outcome(path):
    """What was loaded, and the words of the refusal; one of the two is None."""
    try:
        return load_decoder(path, device=CPU, dtype=torch.float32).config, None
    except ModelError as error:
        return None, str(error)


def shape(config):
    """What the tensors' sizes decide; the vocabulary, a length or the rotation may be another."""
    return config.hidden, config.layers, config.mlp


def test_every_number_of_a_gguf_header_may_lie(tmp_path):
    path = write_gguf(tmp_path / "model.gguf")
    content = path.read_bytes()
    fields = Walk(content).header()
    sound, _ = outcome(path)
    refused = 0

    for name, offset, width in fields:
        for value in {value & ((1 << 8 * width) - 1) for value in HOSTILE}:
            path.write_bytes(content[:offset] + value.to_bytes(width, "little") + content[offset + width :])
            found, words = outcome(path)
            assert shape(found) == shape(sound) if words is None else path.name in words, (name, value, words)
            refused += found is None

    assert sound.hidden == HIDDEN
    assert len(fields) > 100
    assert refused > 5 * len(fields)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A tiny model as transformers writes it; its header as an object, and the bytes behind it."""
    path = tmp_path_factory.mktemp("directory")
    torch.manual_seed(0)
    shape = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    LlamaForCausalLM(LlamaConfig(**shape, num_attention_heads=2)).save_pretrained(path)
    content = (path / "model.safetensors").read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    return path, json.loads(content[8:end]), content[end:]


def lies(header):
    """Every field of every tensor's entry, changed: (tensor, the entry as it is then)."""
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        for dtype in ("F32", "BF16", "F64", "I8", "F4", "", None, 7):
            yield name, entry | {"dtype": dtype}
        for field in ("shape", "data_offsets"):
            yield name, {key: value for key, value in entry.items() if key != field}
            for value in (None, [], [-1], "16", [1 << 63, 1 << 63]):
                yield name, entry | {field: value}
            for index in range(len(entry[field])):
                for value in (*HOSTILE, -1, 1.5, "1"):
                    yield name, entry | {field: [value if i == index else v for i, v in enumerate(entry[field])]}


def test_every_field_of_a_safetensors_header_may_lie(directory):
    path, header, weights = directory
    refused = tried = 0
    for name, entry in lies(header):
        text = json.dumps(header | {name: entry}).encode()
        (path / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + weights)
        found, words = outcome(path)
        assert found is None or found.hidden == 16
        assert entry in (header[name], header[name] | {"dtype": "F32"}) if words is None else str(path) in words
        tried, refused = tried + 1, refused + (found is None)

    assert refused > 0.9 * tried > 300


@pytest.mark.parametrize("length", [*HOSTILE, None])
def test_a_safetensors_header_may_lie_about_its_own_length(directory, length):
    path, header, weights = directory
    text = json.dumps(header).encode()
    size = len(text) + 1 if length is None else length
    (path / "model.safetensors").write_bytes(struct.pack("<Q", size) + text + weights)

    with pytest.raises(ModelError, match="expected a complete safetensors file"):
        load_decoder(path, device=CPU, dtype=torch.float32)
