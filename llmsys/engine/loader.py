"""From a model directory, a GGUF file or a known name to a decoder ready to run.

Reads safetensors as transformers writes them (sharded or not) and GGUF; fuses q, k, v and gate, up while loading. What
was converted is kept in the user's cache and memory-mapped the next time.
Knows nothing of requests or adapters.
"""

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llmsys.artifacts import write_tensors
from llmsys.engine.errors import ModelError
from llmsys.engine.gguf import GgufFile
from llmsys.engine.model import ARCHITECTURES, Decoder, ModelConfig
from llmsys.engine.model_cache import ModelCache, identify
from llmsys.engine.named_weights import NamedWeights, build_decoder, fuse
from llmsys.engine.rope import SCALING_NUMBERS
from llmsys.engine.tokens import Tokenizer
from llmsys.gpu import EMBEDDED, find_model

__all__ = ["LoadedModel", "load_decoder", "load_model", "read_config"]

_log = logging.getLogger(__name__)
_NO_MODEL = f"no such model; expected a model directory, a .gguf file or {EMBEDDED!r}"
SIZE_MAX = 1 << 22
"""Bound of every size in a config, checked before anything is allocated by it."""
ONLY = {"hidden_act": "silu", "partial_rotary_factor": 1.0, "use_sliding_window": False}
"""Settings that would change the computation: the one value of each that the decoder computes, also where absent."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A decoder with its tokenizer; `digest` identifies the weights, `path` says where they came from."""

    decoder: Decoder
    tokenizer: Tokenizer
    config: ModelConfig
    digest: bytes
    path: Path


def load_model(
    name: str,
    *,
    device: torch.device,
    dtype: torch.dtype,
    cache: ModelCache | None = None,
    four_bit: bool = False,
    quantise: bool = False,
    tiled: bool = False,
) -> LoadedModel:
    """Load a model directory, a .gguf file or `smollm2`, from the cache if what was made of it is there.

    four_bit: use the file's own 4-bit codes, where it has any and they are faster; quantise: also make codes of weights
    that have none, which moves them (a warning says how far); tiled: as `Linear` says.

    Raises ModelError for what is not a readable model of ARCHITECTURES, Unavailable for a name without its package.
    """
    path = find_model(name)
    if not path.exists():
        raise ModelError(f"{path}: {_NO_MODEL}")
    key = identify(path, str(dtype), torch.backends.cpu.get_cpu_capability(), torch.__version__)
    found = _restore(path, cache.find(key)) if cache else None
    if found is None:
        found = _read(path, dtype), Tokenizer.load(path)
        if cache:
            _keep(cache, key, path, *found)
    (values, weights), tokenizer = found
    options = {"four_bit": four_bit, "quantise": quantise, "tiled": tiled}
    decoder = _build(path, values, weights, device=device, dtype=dtype, options=options)
    return LoadedModel(decoder, tokenizer, decoder.config, _digest(path), path)


def read_config(path: Path) -> ModelConfig:
    """The shape of a model, without its weights. Raises ModelError as `load_model` does."""
    values = GgufFile(path).config if path.is_file() else _read_directory(path)[0]
    return _config(path, values)


def load_decoder(
    path: Path,
    *,
    device: torch.device,
    dtype: torch.dtype,
    four_bit: bool = False,
    quantise: bool = False,
    tiled: bool = False,
) -> Decoder:
    """The weights alone, without a tokenizer; options as for `load_model`."""
    options = {"four_bit": four_bit, "quantise": quantise, "tiled": tiled}
    return _build(path, *_read(path, dtype), device=device, dtype=dtype, options=options)


def _build(
    path: Path,
    values: dict[str, Any],
    tensors: dict[str, Tensor],
    *,
    device: torch.device,
    dtype: torch.dtype,
    options: dict[str, bool],
) -> Decoder:
    config, tied = _config(path, values), bool(values.get("tie_word_embeddings"))
    moved = {name: t.to(device=device, dtype=dtype if t.is_floating_point() else None) for name, t in tensors.items()}
    return build_decoder(config, NamedWeights(path, moved, **options), tied=tied)


def _read(path: Path, dtype: torch.dtype) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A checked config and the weights by name, as transformers names both."""
    if path.is_dir():
        values, tensors = _read_directory(path)
    elif path.is_file():
        file = GgufFile(path)
        values, tensors = file.config, chain(file.tensors(), file.codes() if dtype == torch.bfloat16 else ())
    else:
        raise ModelError(f"{path}: {_NO_MODEL}")
    _config(path, values)
    return values, {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors}


def _restore(path: Path, entry: Path | None) -> tuple[tuple[dict[str, Any], dict[str, Tensor]], Tokenizer] | None:
    """What `_keep` wrote, weights memory-mapped; None if there is none, or another process has just removed it."""
    if entry is None:
        return None
    try:
        values, tensors = _read_directory(path if path.is_dir() else entry)
        return (values, dict(tensors)), Tokenizer.restore(entry)
    except (OSError, ModelError):
        return None


def _keep(
    cache: ModelCache, key: str, path: Path, model: tuple[dict[str, Any], dict[str, Tensor]], tokenizer: Tokenizer
) -> None:
    """Write what took long to make: the tokenizer, and the weights unless they are mapped from where they are."""
    values, weights = model
    try:
        with cache.keep(key) as place:
            tokenizer.save(place)
            if path.is_file():
                (place / "config.json").write_text(json.dumps(values), encoding="utf-8")
                write_tensors(place / "model.safetensors", fuse(weights))
    except OSError as error:
        _log.warning("the model is loaded but not cached: %s", error)


def _read_directory(path: Path) -> tuple[dict[str, Any], Iterator[tuple[str, Tensor]]]:
    config = path / "config.json"
    try:
        values = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{config}: {error}; expected the config.json of a transformers model") from error
    if not isinstance(values, dict):
        raise ModelError(f"{config}: not a JSON object; expected the config.json of a transformers model")
    return values, _read_safetensors(_weight_files(path))


def _weight_files(path: Path) -> list[Path]:
    """model.safetensors or its shards; other files of a directory (another layout of the same weights) are not ours."""
    files = [path / "model.safetensors"]
    if not files[0].exists():
        files = sorted(path.glob("model-*-of-*.safetensors"))
    if not files:
        raise ModelError(f"{path}: no model.safetensors and no shards of it; expected a directory of transformers")
    return files


def _read_safetensors(files: list[Path]) -> Iterator[tuple[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    for file in files:
        try:
            with safe_open(file, framework="pt") as opened:
                if "llmsys.compress" in (opened.metadata() or {}):
                    from llmsys.compress import codec  # the named door: a tensor codec that this loader takes

                    yield from codec.read_tensors(file)
                    continue
                for name in opened.keys():  # noqa: SIM118 (not a dict)
                    yield name, opened.get_tensor(name)
        except SafetensorError as error:
            raise ModelError(f"{file}: {error}; expected a complete safetensors file") from error


def _config(path: Path, values: dict[str, Any]) -> ModelConfig:
    architecture = values.get("model_type")
    if architecture not in ARCHITECTURES:
        raise ModelError(f"{path}: architecture {architecture!r}; expected one of {', '.join(ARCHITECTURES)}")
    for key, only in ONLY.items():
        if values.get(key) not in (None, only):
            raise ModelError(f"{path}: config has {key} {values[key]!r}; expected {only!r}")
    rope = _rope(path, values)
    hidden, heads = _size(path, values, "hidden_size"), _size(path, values, "num_attention_heads")
    head_dim = _size(path, {"head_dim": values.get("head_dim") or hidden // heads}, "head_dim")
    if values.get("rotary_dim", head_dim) != head_dim:
        raise ModelError(f"{path}: rotates {values['rotary_dim']} of {head_dim} dimensions; expected all of them")
    theta = {"rope_theta": rope.get("rope_theta") or values.get("rope_theta") or 10000.0}
    return ModelConfig(
        architecture=architecture,
        hidden=hidden,
        layers=_size(path, values, "num_hidden_layers"),
        heads=heads,
        kv_heads=_size(path, {"num_key_value_heads": heads} | values, "num_key_value_heads"),
        head_dim=head_dim,
        mlp=_size(path, values, "intermediate_size"),
        vocab=_size(path, values, "vocab_size"),
        rms_eps=_positive(path, values, "rms_norm_eps"),
        rope_theta=_positive(path, theta, "rope_theta"),
        max_len=_size(path, values, "max_position_embeddings"),
        rope_scaling=tuple(sorted(rope.items())),
    )


def _rope(path: Path, values: dict[str, Any]) -> dict[str, Any]:
    """The rotation's settings, with every number that its kind of scaling needs."""
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise ModelError(f"{path}: config has rope settings {rope!r}; expected an object")
    kind = str(rope.get("rope_type") or rope.get("type") or "default")  # "type" is the name that older configs use
    if kind not in SCALING_NUMBERS:
        raise ModelError(f"{path}: rope scaling {kind!r}; expected one of {', '.join(SCALING_NUMBERS)}")
    numbers = {key: _positive(path, rope, key) for key in SCALING_NUMBERS[kind]}
    return {"rope_type": kind} | ({"rope_theta": rope["rope_theta"]} if "rope_theta" in rope else {}) | numbers


def _positive(path: Path, values: dict[str, Any], key: str) -> float:
    value = values.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
        raise ModelError(f"{path}: config has {key} {value!r}; expected a number above 0")
    return float(value)


def _size(path: Path, values: dict[str, Any], key: str) -> int:
    value = values.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= SIZE_MAX:
        raise ModelError(f"{path}: config has {key} {value!r}; expected a whole number of 1 to {SIZE_MAX}")
    return value


def _digest(path: Path) -> bytes:
    """Identity of the weights for caches: names, sizes and times of the files, not their contents."""
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    facts = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.blake2b(repr(facts).encode(), digest_size=16).digest()
