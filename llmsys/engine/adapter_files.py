"""Reads and checks a LoRA adapter as PEFT writes it: adapter_config.json and adapter_model.safetensors.

Nothing is unpickled. Every tensor is checked against the base model before a byte of it is used. Knows nothing of
slots or residency.
"""

import hashlib
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llmsys.engine.errors import AdapterError
from llmsys.engine.factors import GROUPS, Factor, group_widths
from llmsys.engine.lora import AdapterWeights
from llmsys.engine.model import ModelConfig

__all__ = ["AdapterFile", "read_adapter"]

TARGETS = tuple(target for targets in GROUPS.values() for target in targets)
_NAME = re.compile(
    r"^base_model\.model\.model\.layers\.(\d+)\.(?:self_attn|mlp)\.(\w+_proj)\.lora_(A|B|magnitude_vector)(?:\.default)?(?:\.weight)?$"
)
_MAGNITUDE = "magnitude_vector"


@dataclass(frozen=True, slots=True)
class AdapterFile:
    """An adapter that fits its base model. `digest` identifies its contents; `rank` is its largest.

    weights: the factors as a CPU's slot holds them, where they have been laid out already; then `factors` is empty.
    """

    path: Path
    rank: int
    targets: tuple[str, ...]
    parameters: int
    digest: bytes
    factors: tuple[Factor, ...]
    weights: AdapterWeights | None = None


def read_adapter(path: Path, config: ModelConfig, *, rank_max: int) -> AdapterFile:
    """Read an adapter directory and check every tensor against the base model.

    Raises AdapterError, in one line that names the tensor and both shapes, for anything that does not fit.
    """
    settings = _settings(path)
    tensors, digest = _tensors(path)
    factors = tuple(_factors(path, settings, tensors, config, rank_max))
    if not factors:
        raise AdapterError(f"{path}: no LoRA tensors; expected lora_A and lora_B for some of {', '.join(TARGETS)}")
    return AdapterFile(
        path=path,
        rank=max(factor.a.shape[0] for factor in factors),
        targets=tuple(target for target in TARGETS if any(factor.target == target for factor in factors)),
        parameters=sum(factor.a.numel() + factor.b.numel() for factor in factors),
        digest=digest,
        factors=factors,
    )


def _settings(path: Path) -> dict[str, Any]:
    file = path / "adapter_config.json"
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise AdapterError(f"{file}: {error}; expected the adapter_config.json that PEFT writes") from error
    if not isinstance(settings, dict) or settings.get("peft_type") != "LORA":
        raise AdapterError(f"{file}: not a LoRA configuration; expected peft_type LORA")
    for feature in ("modules_to_save", "lora_bias"):
        if settings.get(feature):
            raise AdapterError(f"{file}: {feature} is set; expected a LoRA or DoRA without it")
    rank = settings.get("r")
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        raise AdapterError(f"{file}: rank r is {rank!r}; expected a whole number of at least 1")
    if not isinstance(settings.get("lora_alpha"), int | float):
        raise AdapterError(f"{file}: lora_alpha is {settings.get('lora_alpha')!r}; expected a number")
    return settings


def _tensors(path: Path) -> tuple[dict[str, Tensor], bytes]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    file = path / "adapter_model.safetensors"
    if not file.exists() and (path / "adapter_model.bin").exists():
        raise AdapterError(f"{path / 'adapter_model.bin'}: a pickle is never opened; expected {file.name}")
    try:
        content = file.read_bytes()
        return load(content), hashlib.blake2b(content, digest_size=16).digest()
    except (OSError, SafetensorError) as error:
        raise AdapterError(f"{file}: {error}; expected a complete safetensors file") from error


def _factors(
    path: Path, settings: dict[str, Any], tensors: dict[str, Tensor], config: ModelConfig, rank_max: int
) -> list[Factor]:
    file = path / "adapter_model.safetensors"
    halves: dict[tuple[int, str], dict[str, tuple[str, Tensor]]] = {}
    for name, tensor in sorted(tensors.items()):
        match = _NAME.match(name)
        if match is None or match[2] not in TARGETS:
            raise AdapterError(f"{file}: tensor {name!r} has no place in the model; expected {', '.join(TARGETS)}")
        if int(match[1]) >= config.layers:
            raise AdapterError(f"{file}: tensor {name!r} is of layer {match[1]}; expected below {config.layers}")
        halves.setdefault((int(match[1]), match[2]), {})[match[3]] = (name, tensor)
    shapes = {
        target: (width, outs[index])
        for group, (width, outs) in group_widths(config).items()
        for index, target in enumerate(GROUPS[group])
    }
    factors = []
    for (layer, target), parts in sorted(halves.items()):
        magnitude = parts.pop(_MAGNITUDE, None)
        a, b = _checked(file, parts, shape=shapes[target], rank_max=rank_max)
        own = _magnitude(file, magnitude, f"{target} of layer {layer}", settings, out=shapes[target][1])
        factors.append(Factor(layer, target, a, b * _scale(settings, layer, target, a.shape[0]), own))
    return factors


def _checked(
    file: Path, pair: dict[str, tuple[str, Tensor]], *, shape: tuple[int, int], rank_max: int
) -> tuple[Tensor, Tensor]:
    """Both halves of one projection [width -> out], float32: a [r, width] and b [out, r]."""
    if set(pair) != {"A", "B"}:
        (name, _) = next(iter(pair.values()))
        raise AdapterError(f"{file}: tensor {name!r} has no partner; expected both lora_A and lora_B")
    (a_name, a), (b_name, b) = pair["A"], pair["B"]
    rank = a.shape[0] if a.dim() else 0
    width, out = shape
    for name, tensor, expected in ((a_name, a, (rank, width)), (b_name, b, (out, rank))):
        if tuple(tensor.shape) != expected:
            raise AdapterError(f"{file}: tensor {name!r} is {list(tensor.shape)}; expected {list(expected)}")
        if not bool(torch.isfinite(tensor).all()):
            raise AdapterError(f"{file}: tensor {name!r} holds NaN or infinity; expected finite numbers")
    if not 1 <= rank <= rank_max:
        raise AdapterError(f"{file}: tensor {a_name!r} has rank {rank}; expected 1 to {rank_max}")
    return a.float(), b.float()


def _magnitude(
    file: Path, found: tuple[str, Tensor] | None, place: str, settings: dict[str, Any], *, out: int
) -> Tensor | None:
    """The magnitudes [out] of one projection, float32, which DoRA has everywhere and LoRA nowhere."""
    if (found is not None) != bool(settings.get("use_dora")):
        raise AdapterError(
            f"{file}: {place} has {'a' if found else 'no'} magnitude; expected one where use_dora is set"
        )
    if found is None:
        return None
    name, tensor = found
    if tensor.numel() != out:  # PEFT has written [out], and [1, out] in some versions
        raise AdapterError(f"{file}: tensor {name!r} is {list(tensor.shape)}; expected {[out]}")
    if not bool(torch.isfinite(tensor).all()):
        raise AdapterError(f"{file}: tensor {name!r} holds NaN or infinity; expected finite numbers")
    return tensor.float().flatten()


def _scale(settings: dict[str, Any], layer: int, target: str, rank: int) -> float:
    """alpha / r, or alpha / sqrt(r) with rank-stabilised LoRA; alpha_pattern overrides by module name."""
    module = f"layers.{layer}.{'mlp' if target in ('gate_proj', 'up_proj', 'down_proj') else 'self_attn'}.{target}"
    alpha = float(settings["lora_alpha"])
    for pattern, value in (settings.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", f"model.{module}"):
            alpha = float(value)
            break
    return alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)
