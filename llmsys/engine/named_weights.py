"""From tensors under transformers' names to a decoder: shapes checked, q, k, v and gate, up fused, nothing left over.

Knows nothing of files but their names, for errors.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from llmsys.engine.errors import ModelError
from llmsys.engine.int4 import GROUP, Codes, FourBit
from llmsys.engine.linear import Linear
from llmsys.engine.model import Decoder, Layer, ModelConfig

__all__ = ["CODES", "NamedWeights", "build_decoder", "fuse"]

_log = logging.getLogger(__name__)
CODES = (".nibbles", ".scales", ".packed")
"""What is added to a weight's name where its 4-bit codes stand beside it; the last is optional, as `Codes` says."""
FUSED = (("self_attn.", ("q_proj", "k_proj", "v_proj")), ("mlp.", ("gate_proj", "up_proj")))
ALONE = (("self_attn.", ("o_proj",)), ("mlp.", ("down_proj",)))


class NamedWeights:
    """Takes tensors by name, checks their shapes, and frees each once taken.

    four_bit: whether matrices are to keep the 4-bit codes that stand beside them; quantise: whether those without are
    to be replaced by the nearest ones that have such codes; tiled: as `Linear` says.
    """

    def __init__(
        self,
        path: Path,
        tensors: dict[str, Tensor],
        *,
        four_bit: bool = False,
        quantise: bool = False,
        tiled: bool = False,
    ) -> None:
        self._path = path
        self._tensors = tensors
        self._four_bit = four_bit
        self._quantise = quantise
        self._moved = self._size = 0.0
        self.tiled = tiled

    def matrix(self, names: Sequence[str], outs: Sequence[int], width: int, bias: Tensor | None = None) -> Linear:
        """The projections `names`, each [out, width], as one matrix."""
        if len(names) > 1 and self.has(_whole(names) + ".weight"):
            names, outs = [_whole(names)], [sum(outs)]
        codes = [self._codes(name + ".weight", out, width) for name, out in zip(names, outs, strict=True)]
        weight = _below([self.take(name + ".weight", out, width) for name, out in zip(names, outs, strict=True)])
        known = [part for part in codes if part is not None]
        whole = Codes.fused(known) if self._four_bit and len(known) == len(names) else None
        if self._quantise and whole is None and FourBit.takes(weight):
            whole, weight = self._quantised(weight)
        return Linear(weight, bias, codes=whole, tiled=self.tiled)

    @property
    def moved(self) -> float:
        """How far quantising has moved the weights: root mean square of the change over that of the weights."""
        return math.sqrt(self._moved / self._size) if self._size else 0.0

    def take(self, name: str, *shape: int) -> Tensor:
        """A tensor, which is not there any more. Raises ModelError for one that is missing or of another shape."""
        tensor = self._tensors.pop(name, None)
        if tensor is None:
            raise ModelError(f"{self._path}: no tensor {name!r}; expected one of shape {list(shape)}")
        if tuple(tensor.shape) != shape:
            raise ModelError(f"{self._path}: tensor {name!r} is {list(tensor.shape)}; expected {list(shape)}")
        return tensor

    def has(self, name: str) -> bool:
        """Whether a tensor has not been taken yet."""
        return name in self._tensors

    def finish(self) -> None:
        """Refuse weights that nothing took: a model that leaves them out is another model."""
        left = sorted(name for name in self._tensors if not name.endswith(".rotary_emb.inv_freq"))
        if left:
            raise ModelError(f"{self._path}: tensor {left[0]!r} has no place in the decoder; expected a plain decoder")

    def _quantised(self, weight: Tensor) -> tuple[Codes, Tensor]:
        """The nearest codes, and the weights that they mean: all batch sizes then compute with one model."""
        codes = Codes.nearest(weight)
        dense = codes.dense().to(weight.dtype)
        self._moved += float((dense.float() - weight.float()).square().sum())
        self._size += float(weight.float().square().sum())
        return codes, dense

    def _codes(self, name: str, out: int, width: int) -> Codes | None:
        if not self.has(name + CODES[0]):
            return None
        nibbles = self.take(name + CODES[0], out, width // 2)
        scales = self.take(name + CODES[1], width // GROUP, out, 2)
        packed = self.take(name + CODES[2], out, width // 2) if self.has(name + CODES[2]) else None
        return Codes(nibbles, scales, packed)


def fuse(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same weights, joined as `NamedWeights` would join them and their codes laid out, for a cache.

    What is joined stands under its parts' names with a + between them.
    """
    found, layers = dict(tensors), {name.split(".")[2] for name in tensors if name.startswith("model.layers.")}
    for layer in layers:
        for place, parts in (*FUSED, *ALONE):
            names = [f"model.layers.{layer}.{place}{part}" for part in parts]
            if all(name + ".weight" in found for name in names):
                _join(found, names)
    return found


def _join(tensors: dict[str, Tensor], names: Sequence[str]) -> None:
    """Put one matrix in the place of several, and codes that are laid out beside it if all have codes."""
    whole = _whole(names) + ".weight"
    weight = _below([tensors.pop(name + ".weight") for name in names])
    marked = [[tensors.pop(f"{name}.weight{mark}", None) for mark in CODES[:2]] for name in names]
    known = [Codes(nibbles, scales) for nibbles, scales in marked if nibbles is not None and scales is not None]
    tensors[whole] = weight
    if len(known) == len(names):
        codes = Codes.fused(known)
        tensors[whole + CODES[0]], tensors[whole + CODES[1]] = codes.nibbles, codes.scales
        if FourBit.takes(weight):
            tensors[whole + CODES[2]] = codes.laid_out()


def _whole(names: Sequence[str]) -> str:
    return "+".join(names)


def _below(parts: list[Tensor]) -> Tensor:
    """Matrices one below the other; one alone is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def build_decoder(config: ModelConfig, weights: NamedWeights, *, tied: bool) -> Decoder:
    """Take every weight of a model of this shape; tied: the head is the embedding, stored once or twice.

    Raises ModelError for a weight that is missing, of another shape, or left over.
    """
    embedding = weights.take("model.embed_tokens.weight", config.vocab, config.hidden)
    layers = [_layer(weights, config, f"model.layers.{index}.") for index in range(config.layers)]
    norm = weights.take("model.norm.weight", config.hidden)
    stored = weights.has("lm_head.weight") or not tied  # a tied head may be stored a second time
    head = weights.take("lm_head.weight", config.vocab, config.hidden) if stored else embedding
    weights.finish()
    if weights.moved:
        _log.warning(
            "int4: weights without 4-bit codes were quantised, which moved them by %.1f %%", 100 * weights.moved
        )
    return Decoder(
        config,
        embedding=embedding,
        layers=layers,
        norm=norm,
        head=Linear(embedding if tied else head, tiled=weights.tiled),
    )


def _layer(weights: NamedWeights, config: ModelConfig, prefix: str) -> Layer:
    hidden, attention, mlp = config.hidden, prefix + "self_attn.", prefix + "mlp."
    widths = (config.q_width, config.kv_width, config.kv_width)
    qkv = [f"{attention}{name}_proj" for name in "qkv"]
    bias = None
    if weights.has(qkv[0] + ".bias"):
        bias = torch.cat([weights.take(name + ".bias", width) for name, width in zip(qkv, widths, strict=True)])
    normed = weights.has(attention + "q_norm.weight")
    return Layer(
        attention_norm=weights.take(prefix + "input_layernorm.weight", hidden),
        qkv=weights.matrix(qkv, widths, hidden, bias),
        o=weights.matrix([attention + "o_proj"], [hidden], config.q_width),
        mlp_norm=weights.take(prefix + "post_attention_layernorm.weight", hidden),
        gate_up=weights.matrix([mlp + "gate_proj", mlp + "up_proj"], [config.mlp] * 2, hidden),
        down=weights.matrix([mlp + "down_proj"], [hidden], config.mlp),
        q_norm=weights.take(attention + "q_norm.weight", config.head_dim) if normed else None,
        k_norm=weights.take(attention + "k_norm.weight", config.head_dim) if normed else None,
    )
