"""LoRA adapters between PEFT's directory and llama.cpp's GGUF file, both ways without loss.

In a GGUF file a factor's scale is alpha / rank; here alpha is the largest rank and B carries the rest. llama.cpp keeps
the rows of q and k of `llama` models in pairs for its rotation, PEFT in halves. Knows nothing of base weights.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmsys.artifacts import replace_path
from llmsys.engine.adapter_files import AdapterFile, read_adapter
from llmsys.engine.errors import AdapterError
from llmsys.engine.factors import Factor
from llmsys.engine.model import ModelConfig
from llmsys.errors import BadInput, UsageFault
from llmsys.serve_lora.adapter_check import RANK_MAX
from llmsys.serve_lora.adapter_files import TrainingRecord, read_base_name, write_adapter

__all__ = ["convert_adapter", "gguf_to_peft", "peft_to_gguf"]

NAMES = {
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "o_proj": "attn_output",
    "gate_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "down_proj": "ffn_down",
}
TARGETS = {stem: target for target, stem in NAMES.items()}
PAIRED = ("llama",)
KINDS = ("F32", "F16", "BF16")


def convert_adapter(source: Path, destination: Path, config: ModelConfig) -> None:
    """Convert a directory to a .gguf file, or a .gguf file to a directory.

    Raises UsageFault where `destination` is neither or exists, else as `read_adapter` and `gguf_to_peft` do.
    """
    to_gguf = destination.suffix == ".gguf"
    if to_gguf == (source.suffix == ".gguf"):
        raise UsageFault(f"{source} to {destination}: exactly one of the two is to end in .gguf")
    if destination.exists():
        raise UsageFault(f"{destination} exists; name a new place or remove this one")
    if to_gguf:
        peft_to_gguf(read_adapter(source, config, rank_max=RANK_MAX), destination, config)
    else:
        gguf_to_peft(source, destination, config)


def peft_to_gguf(adapter: AdapterFile, destination: Path, config: ModelConfig) -> None:
    """Write a checked adapter as one GGUF file of float32 factors. Raises AdapterError for DoRA, which GGUF lacks."""
    import gguf

    if any(factor.magnitude is not None for factor in adapter.factors):
        raise AdapterError(f"{adapter.path}: has DoRA magnitudes, which a GGUF adapter cannot hold; expected a LoRA")

    with replace_path(destination) as temporary:
        writer = gguf.GGUFWriter(temporary, config.architecture)
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_name(adapter.path.resolve().name)
        writer.add_string("general.base_model.0.name", read_base_name(adapter.path))
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(adapter.rank))
        for factor in adapter.factors:
            stem = f"blk.{factor.layer}.{NAMES[factor.target]}.weight"
            # the reader multiplies by alpha / rank of this factor
            b = _paired(factor.b * (factor.a.shape[0] / adapter.rank), factor.target, config)
            writer.add_tensor(f"{stem}.lora_a", factor.a.contiguous().numpy())
            writer.add_tensor(f"{stem}.lora_b", b.contiguous().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def gguf_to_peft(source: Path, destination: Path, config: ModelConfig) -> None:
    """Write a GGUF LoRA as an adapter directory, in bfloat16 where that loses nothing, else in float32.

    Raises BadInput for a file that is no LoRA of this architecture, naming the tensor.
    """
    reader = _open(source)
    if _text(reader, "adapter.type") != "lora" or _text(reader, "general.architecture") != config.architecture:
        raise BadInput(str(source), "not a LoRA of this base model", f"adapter.type lora for {config.architecture}")
    factors = _read_factors(source, reader, config)
    if not factors:
        raise BadInput(str(source), "no factor", "tensors named blk.N.NAME.weight.lora_a and .lora_b")
    tensors = {
        f"base_model.model.model.{_module(factor)}.lora_{half}.weight": value
        for factor in factors
        for half, value in (("A", factor.a), ("B", factor.b))
    }
    if all(torch.equal(value, value.bfloat16().float()) for value in tensors.values()):
        tensors = {name: value.bfloat16() for name, value in tensors.items()}
    write_adapter(
        destination, tensors, _peft_config(factors, _text(reader, "general.base_model.0.name")), TrainingRecord()
    )


def _read_factors(source: Path, reader: Any, config: ModelConfig) -> list[Factor]:  # noqa: ANN401
    alpha = _number(reader, "adapter.lora.alpha")
    halves: dict[tuple[int, str], dict[str, Tensor]] = {}
    for entry in reader.tensors:
        parts = entry.name.split(".")
        known = len(parts) == 5 and parts[0] == "blk" and parts[1].isdecimal() and parts[2] in TARGETS
        if not known or parts[3] != "weight" or parts[4] not in ("lora_a", "lora_b"):
            raise BadInput(str(source), f"tensor {entry.name!r}", "blk.N.NAME.weight.lora_a or .lora_b of a projection")
        halves.setdefault((int(parts[1]), TARGETS[parts[2]]), {})[parts[4]] = _tensor(source, entry)
    factors = []
    for (layer, target), pair in sorted(halves.items()):
        name = f"blk.{layer}.{NAMES[target]}.weight"
        if set(pair) != {"lora_a", "lora_b"} or pair["lora_a"].shape[0] != pair["lora_b"].shape[1]:
            shapes = {half: list(value.shape) for half, value in pair.items()}
            raise BadInput(str(source), f"tensor {name!r} has {shapes}", "lora_a [r, in] and lora_b [out, r]")
        a, b = pair["lora_a"], pair["lora_b"]
        scale = alpha / a.shape[0] if alpha else 1.0
        factors.append(Factor(layer, target, a, _halved(source, name, b * scale, target, config)))
    return factors


def _peft_config(factors: list[Factor], base: str) -> dict[str, object]:
    """PEFT's configuration of factors whose scale is in B already: alpha equals the rank, for each."""
    ranks = {_module(factor): factor.a.shape[0] for factor in factors}
    rank = max(ranks.values())
    other = {module: own for module, own in ranks.items() if own != rank}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": other,
        "alpha_pattern": other,
        "target_modules": sorted({factor.target for factor in factors}),
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
    }


def _module(factor: Factor) -> str:
    """PEFT's name of the adapted projection within the decoder."""
    block = "mlp" if factor.target in ("gate_proj", "up_proj", "down_proj") else "self_attn"
    return f"layers.{factor.layer}.{block}.{factor.target}"


def _heads(target: str, config: ModelConfig) -> int | None:
    """Heads whose rows llama.cpp keeps in pairs, None where rows stay as they are."""
    if config.architecture not in PAIRED:
        return None
    return {"q_proj": config.heads, "k_proj": config.kv_heads}.get(target)


def _paired(b: Tensor, target: str, config: ModelConfig) -> Tensor:
    """Rows [heads, 2, half] to [heads, half, 2]."""
    heads = _heads(target, config)
    return b if heads is None else b.view(heads, 2, -1, b.shape[1]).transpose(1, 2).reshape(b.shape)


def _halved(source: Path, name: str, b: Tensor, target: str, config: ModelConfig) -> Tensor:
    """Rows [heads, half, 2] to [heads, 2, half]."""
    heads = _heads(target, config)
    if heads is None:
        return b
    if b.shape[0] != heads * config.head_dim:
        raise BadInput(str(source), f"tensor {name!r} has {b.shape[0]} rows", f"{heads * config.head_dim}")
    return b.view(heads, -1, 2, b.shape[1]).transpose(1, 2).reshape(b.shape)


def _open(path: Path) -> Any:  # noqa: ANN401
    from gguf import GGUFReader

    try:
        return GGUFReader(path)
    except (ValueError, KeyError, IndexError, OverflowError, OSError, MemoryError) as error:
        raise BadInput(str(path), f"not a readable GGUF file ({error})", "a LoRA in GGUF version 2 or 3") from error


def _text(reader: Any, key: str) -> str:  # noqa: ANN401
    field = reader.fields.get(key)
    return "" if field is None else str(field.contents())


def _number(reader: Any, key: str) -> float:  # noqa: ANN401
    field = reader.fields.get(key)
    value = 0.0 if field is None else field.contents()
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else 0.0


def _tensor(source: Path, entry: Any) -> Tensor:  # noqa: ANN401
    from gguf import dequantize

    kind = entry.tensor_type.name
    if kind not in KINDS:
        raise BadInput(str(source), f"tensor {entry.name!r} is {kind}", f"one of {', '.join(KINDS)}")
    shape = tuple(int(size) for size in reversed(entry.shape))
    if len(shape) != 2:
        raise BadInput(str(source), f"tensor {entry.name!r} has shape {list(shape)}", "two dimensions")
    values = np.ascontiguousarray(dequantize(entry.data, entry.tensor_type), dtype=np.float32)
    return torch.from_numpy(values.reshape(shape).copy())
