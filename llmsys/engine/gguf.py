"""Reads a GGUF file into named tensors and a model's shape, as transformers would see them.

Dequantises Q4_0, Q4_1, Q8_0, F16, BF16 and F32 through the `gguf` package and undoes llama.cpp's row permutation of
q and k. Knows nothing of the decoder.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmsys.engine.errors import ModelError

__all__ = ["GgufFile"]

KINDS = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q8_0")
PERMUTED = ("llama",)
"""Architectures whose q and k rows llama.cpp stores for interleaved rotation."""

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


class GgufFile:
    """One opened file: `config` in transformers' names, `tensors()` in transformers' names and row order."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reader = _open(path)
        self.architecture = str(self._field("general.architecture"))
        self.config = self._read_config()

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every weight, float32, one at a time. Raises ModelError for a kind that is not in KINDS."""
        for entry in self._reader.tensors:
            name = _transformers_name(entry.name)
            if name is None:
                continue
            tensor = self._dequantised(entry)
            yield name, self._unpermuted(name, tensor)

    def _field(self, key: str) -> Any:  # noqa: ANN401
        field = self._reader.fields.get(key)
        if field is None:
            raise ModelError(f"{self.path}: no field {key!r}; expected a complete GGUF model file")
        return field.contents()

    def _read_config(self) -> dict[str, Any]:
        """The shape in the words of a transformers config.json."""
        prefix = self.architecture
        heads = int(self._field(f"{prefix}.attention.head_count"))
        hidden = int(self._field(f"{prefix}.embedding_length"))
        optional = self._reader.fields
        head_dim = f"{prefix}.attention.key_length"
        names = {entry.name for entry in self._reader.tensors}
        return {
            "model_type": prefix,
            "hidden_size": hidden,
            "num_hidden_layers": int(self._field(f"{prefix}.block_count")),
            "num_attention_heads": heads,
            "num_key_value_heads": int(self._field(f"{prefix}.attention.head_count_kv")),
            "head_dim": int(self._field(head_dim)) if head_dim in optional else hidden // heads,
            "intermediate_size": int(self._field(f"{prefix}.feed_forward_length")),
            "vocab_size": self._vocabulary(),
            "rms_norm_eps": float(self._field(f"{prefix}.attention.layer_norm_rms_epsilon")),
            "rope_theta": float(self._field(f"{prefix}.rope.freq_base")),
            "max_position_embeddings": int(self._field(f"{prefix}.context_length")),
            "tie_word_embeddings": "output.weight" not in names,
        }

    def _vocabulary(self) -> int:
        for entry in self._reader.tensors:
            if entry.name == "token_embd.weight":
                return int(entry.shape[1])
        raise ModelError(f"{self.path}: no tensor 'token_embd.weight'; expected a complete GGUF model file")

    def _dequantised(self, entry: Any) -> Tensor:  # noqa: ANN401
        from gguf import dequantize

        kind = entry.tensor_type.name
        if kind not in KINDS:
            raise ModelError(f"{self.path}: tensor {entry.name!r} is {kind}; expected one of {', '.join(KINDS)}")
        shape = tuple(int(size) for size in reversed(entry.shape))
        values = np.ascontiguousarray(dequantize(entry.data, entry.tensor_type), dtype=np.float32)
        return torch.from_numpy(values.reshape(shape).copy())

    def _unpermuted(self, name: str, tensor: Tensor) -> Tensor:
        """Rows of q and k from interleaved pairs back to halves."""
        if self.architecture not in PERMUTED or not name.endswith(("q_proj.weight", "k_proj.weight")):
            return tensor
        key = "num_attention_heads" if "q_proj" in name else "num_key_value_heads"
        heads = self.config[key]
        half = tensor.shape[0] // heads // 2
        return tensor.view(heads, half, 2, -1).transpose(1, 2).reshape(tensor.shape)


def _open(path: Path) -> Any:  # noqa: ANN401
    """The `gguf` package's reader; whatever it stumbles over becomes one ModelError."""
    from gguf import GGUFReader

    try:
        return GGUFReader(path)
    except FileNotFoundError as error:
        raise ModelError(f"{path}: no such file; expected a GGUF model") from error
    except (ValueError, KeyError, IndexError, OverflowError, OSError, MemoryError) as error:
        raise ModelError(f"{path}: not a readable GGUF file ({error}); expected GGUF version 2 or 3") from error


def _transformers_name(name: str) -> str | None:
    """blk.3.attn_q.weight -> model.layers.3.self_attn.q_proj.weight; None for what no decoder uses."""
    if name in _TOP:
        return _TOP[name]
    if not name.startswith("blk."):
        return None
    _, index, rest = name.split(".", 2)
    whole: Mapping[str, str] = _NAMES
    if rest in whole:
        return f"model.layers.{index}.{whole[rest]}"
    stem, _, kind = rest.rpartition(".")
    return f"model.layers.{index}.{whole[stem]}.{kind}" if stem in whole else None
