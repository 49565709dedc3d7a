"""Reads a GGUF file into named tensors and a model's shape, as transformers would see them.

Dequantises Q4_0, Q4_1, Q8_0, F16, BF16 and F32 through the `gguf` package and undoes llama.cpp's row permutation of
q and k. What it does not know it refuses, as a weight left out would change every answer in silence. Knows nothing of
the decoder.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from gguf import GGUFReader, GGUFValueType, dequantize
from torch import Tensor

from llmsys.engine.errors import ModelError
from llmsys.engine.int4 import GROUP
from llmsys.engine.model import ARCHITECTURES
from llmsys.engine.named_weights import CODES

__all__ = ["GgufFile"]

KINDS = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q8_0")
BLOCK_BYTES = {"Q4_0": 2 + GROUP // 2, "Q4_1": 4 + GROUP // 2}
"""Kinds of 4-bit codes: a group of 32 is float16 d, in Q4_1 float16 m too, and 16 bytes."""
PERMUTED = ("llama",)
"""Architectures whose q and k rows llama.cpp stores for interleaved rotation."""
ARRAY_MAX = 1 << 22
"""Elements of a metadata array, which are walked one by one; vocabularies have some 2^18."""

_NAMES = {
    "attn_norm.weight": "input_layernorm.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_TOP = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}


_FIELDS = {
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "intermediate_size": "feed_forward_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "max_position_embeddings": "context_length",
}
_OPTIONAL = {
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "rope_theta": "rope.freq_base",
    "rotary_dim": "rope.dimension_count",
}


class GgufFile:
    """One opened file: `config` in transformers' names, `tensors()` in transformers' names and row order."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reader = _open(path)
        self._shapes = {entry.name: tuple(int(n) for n in reversed(entry.shape)) for entry in self._reader.tensors}
        self.architecture = str(self._field("general.architecture"))
        self.config = self._read_config()

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every weight, float32, one at a time. Raises ModelError for a kind not in KINDS, a name without a place."""
        for entry in self._reader.tensors:
            name = _transformers_name(entry.name)
            if name is None:
                known = f"expected the weights of {self.architecture}"
                raise ModelError(f"{self.path}: tensor {entry.name!r} has no place in the decoder; {known}")
            yield name, self._unpermuted(name, self._dequantised(entry))

    def codes(self) -> Iterator[tuple[str, Tensor]]:
        """The 4-bit codes of the blocks' matrices, as `int4.Codes` has them: two tensors each, named as CODES says."""
        for entry in self._reader.tensors:
            name, kind, shape = _transformers_name(entry.name), entry.tensor_type.name, self._shapes[entry.name]
            if name is None or not name.startswith("model.layers.") or kind not in BLOCK_BYTES:
                continue
            if len(shape) != 2 or not entry.n_elements:
                raise ModelError(f"{self.path}: tensor {entry.name!r} is {list(shape)}; expected a matrix")
            blocks = np.array(entry.data).reshape(shape[0], -1, BLOCK_BYTES[kind])
            nibbles = torch.from_numpy(blocks[:, :, -GROUP // 2 :].reshape(shape[0], -1))
            scales = self._unpermuted(name, _scales(blocks))
            yield name + CODES[0], self._unpermuted(name, nibbles)
            yield name + CODES[1], scales.permute(1, 0, 2).contiguous()

    def _field(self, key: str) -> Any:  # noqa: ANN401
        field = self._reader.fields.get(key)
        if field is None:
            raise ModelError(f"{self.path}: no field {key!r}; expected a complete GGUF model file")
        try:
            return field.contents()
        except ValueError as error:
            raise ModelError(f"{self.path}: field {key!r}: {error}; expected UTF-8") from error

    def _read_config(self) -> dict[str, Any]:
        """The shape in the words of a transformers config.json; types and ranges are for the reader to check."""
        found = {"model_type": self.architecture, "tie_word_embeddings": "output.weight" not in self._shapes}
        if self.architecture not in ARCHITECTURES:
            return found
        prefix = self.architecture + "."
        fields = {name: self._field(prefix + key) for name, key in _FIELDS.items()}
        optional = {name: key for name, key in _OPTIONAL.items() if prefix + key in self._reader.fields}
        fields |= {name: self._field(prefix + key) for name, key in optional.items()}
        return (
            found | fields | {"vocab_size": self._vocabulary(), "rope_scaling": self._scaling(prefix + "rope.scaling.")}
        )

    def _scaling(self, prefix: str) -> dict[str, Any]:
        """Rotation's scaling as transformers names it; {} for none."""
        if prefix + "type" not in self._reader.fields or self._field(prefix + "type") == "none":
            return {}
        factor = {"factor": self._field(prefix + "factor")} if prefix + "factor" in self._reader.fields else {}
        return {"rope_type": self._field(prefix + "type")} | factor

    def _vocabulary(self) -> int:
        shape = self._shapes.get("token_embd.weight", ())
        if len(shape) != 2:
            raise ModelError(f"{self.path}: tensor 'token_embd.weight' is {list(shape)}; expected a matrix")
        return shape[0]

    def _dequantised(self, entry: Any) -> Tensor:  # noqa: ANN401
        kind = entry.tensor_type.name
        if kind not in KINDS:
            raise ModelError(f"{self.path}: tensor {entry.name!r} is {kind}; expected one of {', '.join(KINDS)}")
        if not entry.n_elements:
            raise ModelError(
                f"{self.path}: tensor {entry.name!r} is {list(self._shapes[entry.name])}; expected numbers"
            )
        values = np.ascontiguousarray(dequantize(entry.data, entry.tensor_type), dtype=np.float32)
        return torch.from_numpy(values.reshape(self._shapes[entry.name]).copy())

    def _unpermuted(self, name: str, tensor: Tensor) -> Tensor:
        """Rows of q and k, weights and biases, from interleaved pairs back to halves."""
        if self.architecture not in PERMUTED or not (".q_proj." in name or ".k_proj." in name):
            return tensor
        heads = self.config["num_attention_heads"]
        if ".k_proj." in name:
            heads = self.config.get("num_key_value_heads", heads)
        if tensor.shape[0] % (2 * heads):
            raise ModelError(f"{self.path}: {name!r} has {tensor.shape[0]} rows; expected a multiple of {2 * heads}")
        half = tensor.shape[0] // heads // 2
        return tensor.view(heads, half, 2, -1).transpose(1, 2).reshape(tensor.shape)


def _scales(blocks: npt.NDArray[np.uint8]) -> Tensor:
    """Scale d and zero z of every block: [rows, blocks, bytes] to [rows, blocks, 2] bfloat16."""
    head = blocks.shape[2] - GROUP // 2
    numbers = np.ascontiguousarray(blocks[:, :, :head]).view(np.float16).astype(np.float32)
    scale = numbers[:, :, 0]
    zero = numbers[:, :, 1] + 8 * scale if head > 2 else np.zeros_like(scale)
    return torch.from_numpy(np.stack((scale, zero), axis=-1)).to(torch.bfloat16)


class _BoundedReader(GGUFReader):  # type: ignore[misc]
    """The package's reader, kept inside the file: past the end its slices are empty, and its loops go on over them."""

    def _get(
        self, offset: int, dtype: npt.DTypeLike, count: int = 1, override_order: str | None = None
    ) -> npt.NDArray[Any]:
        offset, wanted = int(offset), int(count) * np.dtype(dtype).itemsize
        if offset + wanted > self.data.size:
            raise ValueError(f"{wanted} bytes wanted at offset {offset}, the file has {self.data.size}")
        found: npt.NDArray[Any] = super()._get(offset, dtype, count, override_order)
        return found

    def _get_field_parts(self, orig_offs: int, raw_type: int) -> Any:  # noqa: ANN401
        """An array becomes one slab of bytes: the package makes objects of every element, which takes seconds."""
        if raw_type != GGUFValueType.ARRAY:
            return super()._get_field_parts(orig_offs, raw_type)
        kind, length = self._get(orig_offs, np.uint32), self._get(orig_offs + 4, np.uint64)
        if length[0] > ARRAY_MAX:
            raise ValueError(f"an array of {length[0]} elements at offset {orig_offs}, more than {ARRAY_MAX}")
        start = orig_offs + 12
        slab = self._get(start, np.uint8, self._array_bytes(start, GGUFValueType(kind[0]), int(length[0])))
        return 12 + slab.nbytes, [kind, length, slab], [2], [GGUFValueType.ARRAY, GGUFValueType.UINT8]

    def _array_bytes(self, start: int, kind: GGUFValueType, length: int) -> int:
        """Bytes of an array's elements; strings say their own length, one after the other."""
        scalar = self.gguf_scalar_to_np.get(kind)
        if scalar is not None:
            return length * int(np.dtype(scalar).itemsize)
        if kind != GGUFValueType.STRING:
            raise ValueError(f"an array of {kind.name} at offset {start}; expected numbers or strings")
        order: Literal["big", "little"] = "big" if self.byte_order == "S" else "little"
        data, place = memoryview(self.data), start
        for _ in range(length):
            place += 8 + int.from_bytes(data[place : place + 8], order)
            if place > len(data):
                raise ValueError(f"a string that ends at offset {place}, the file has {len(data)} bytes")
        return place - start


def _open(path: Path) -> Any:  # noqa: ANN401
    """The `gguf` package's reader; whatever it stumbles over becomes one ModelError."""
    try:
        return _BoundedReader(path)
    except FileNotFoundError as error:
        raise ModelError(f"{path}: no such file; expected a GGUF model") from error
    except (ValueError, KeyError, IndexError, OverflowError, OSError, MemoryError, RecursionError) as error:
        raise ModelError(f"{path}: not a readable GGUF file ({error}); expected GGUF version 2 or 3") from error


def _transformers_name(name: str) -> str | None:
    """blk.3.attn_q.weight -> model.layers.3.self_attn.q_proj.weight; None for what no decoder uses."""
    if name in _TOP:
        return _TOP[name]
    block, _, rest = name.partition(".")
    index, _, rest = rest.partition(".")
    if block != "blk" or not index.isdecimal():
        return None
    stem, _, kind = rest.rpartition(".")
    place = _NAMES.get(rest) or (f"{_NAMES[stem]}.{kind}" if stem in _NAMES else None)
    return f"model.layers.{index}.{place}" if place else None
