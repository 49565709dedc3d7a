"""What a model's loss makes of errors in its weights: H = E[x xᵀ] of a projection's inputs, g = E[dy²] of its outputs.

The second-order estimate of K-FAC: an error E of a weight costs tr(diag(g) E H Eᵀ) / 2. Labels are sampled from the
model itself, so that g is the Fisher information and not the text's. Knows the engine's decoder and how it fuses
projections; knows no codec. The forward pass here keeps what backward needs, which the engine's own does not.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor

from llmsys.compress.evaluation import WINDOW, text_ids
from llmsys.compress.original_model import load_original
from llmsys.compress.resident import FUSED
from llmsys.compress.sensitivity import Place, Statistics
from llmsys.errors import UsageFault

if TYPE_CHECKING:
    from llmsys.engine.model import Decoder, Layer

__all__ = ["DEFAULT_TOKENS", "CalibrationLine", "calibrate", "measure_statistics"]

DEFAULT_TOKENS = 3072
LEAST_TOKENS = 32


class CalibrationLine(msgspec.Struct, frozen=True):
    """What a calibration came to: matrices that have statistics, tokens seen, the model's own loss in nats."""

    matrices: int
    tokens: int
    loss: float


def calibrate(
    model: Path, text: Path, *, tokens: int, seed: int, advance: Callable[[int], None]
) -> tuple[Statistics, CalibrationLine]:
    """Measure a model directory or GGUF file on the first tokens of a text. Raises UsageFault for too short a text."""
    return measure_statistics(load_original(model), text_ids(model, text, tokens), seed=seed, advance=advance)


def measure_statistics(
    decoder: "Decoder", ids: list[int], *, seed: int, advance: Callable[[int], None]
) -> tuple[Statistics, CalibrationLine]:
    """Mean moments over windows of WINDOW tokens; `advance` is told the tokens done."""
    if len(ids) < LEAST_TOKENS:
        raise UsageFault(f"{len(ids)} tokens of text; expected {LEAST_TOKENS} or more to calibrate on")
    moments = _Moments()
    generator = torch.Generator().manual_seed(seed)
    window = min(WINDOW, decoder.config.max_len)
    loss, seen = 0.0, 0
    for start in range(0, len(ids), window):
        part = torch.tensor(ids[start : start + window])
        with torch.enable_grad():
            logits = _forward(decoder, part, moments)
            sampled = torch.multinomial(torch.softmax(logits.detach(), -1), 1, generator=generator)[:, 0]
            total = F.cross_entropy(logits, sampled, reduction="sum")
            total.backward()  # type: ignore[no-untyped-call]
        loss += float(total.detach())
        seen += len(part)
        advance(len(part))
    inputs = {group: (sums / seen).numpy() for group, sums in moments.inputs.items()}
    outputs = {group: (sums / seen).numpy() for group, sums in moments.outputs.items()}
    places = _places(decoder)
    return Statistics(inputs, outputs, places), CalibrationLine(len(places), seen, loss / seen)


class _Moments:
    """Sums over tokens by fused projection."""

    def __init__(self) -> None:
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}

    def through(self, layer: "Layer", at: int, group: str, x: Tensor) -> Tensor:
        """x through a projection; its moments are added, those of the outputs when backward comes by."""
        name = f"layers.{at}.{group}"
        seen = x.detach()
        self._add(self.inputs, name, seen.T @ seen)
        weight = getattr(layer, group)
        y = F.linear(x, weight.dense(), weight.bias)
        y.register_hook(lambda gradient: self._add(self.outputs, name, gradient.square().sum(0)))  # type: ignore[no-untyped-call]
        return y

    @staticmethod
    def _add(sums: dict[str, Tensor], name: str, more: Tensor) -> None:
        sums[name] = sums[name] + more if name in sums else more


def _forward(decoder: "Decoder", ids: Tensor, moments: _Moments) -> Tensor:
    """Logits [T, vocabulary] of one sequence, with a graph from the embedding on."""
    config, tokens = decoder.config, len(ids)
    angles = decoder.rotary.at(torch.arange(tokens))
    heads = config.heads + config.kv_heads
    x = F.embedding(ids, decoder.embedding).detach().requires_grad_()

    def normed(values: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(values, (values.shape[-1],), weight, config.rms_eps)

    for at, layer in enumerate(decoder.layers):
        qkv = moments.through(layer, at, "qkv", normed(x, layer.attention_norm))
        qk = qkv[:, : heads * config.head_dim].view(tokens, heads, config.head_dim)
        v = qkv[:, heads * config.head_dim :].view(tokens, config.kv_heads, config.head_dim)
        if layer.q_norm is not None and layer.k_norm is not None:
            qk = torch.cat(
                (normed(qk[:, : config.heads], layer.q_norm), normed(qk[:, config.heads :], layer.k_norm)), 1
            )
        turned = decoder.rotary.rotate(qk, *angles)
        q, k, v = (one.transpose(0, 1)[None] for one in (turned[:, : config.heads], turned[:, config.heads :], v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + moments.through(layer, at, "o", mixed[0].transpose(0, 1).reshape(tokens, config.q_width))
        gate, up = moments.through(layer, at, "gate_up", normed(x, layer.mlp_norm)).chunk(2, -1)
        x = x + moments.through(layer, at, "down", F.silu(gate) * up)
    return F.linear(normed(x, decoder.norm), decoder.head.dense(), decoder.head.bias).float()


def _places(decoder: "Decoder") -> dict[str, Place]:
    config = decoder.config
    widths = {
        "qkv": (config.q_width, config.kv_width, config.kv_width),
        "o": (config.hidden,),
        "gate_up": (config.mlp, config.mlp),
        "down": (config.hidden,),
    }
    places = {}
    for at in range(config.layers):
        for group, parts in FUSED.items():
            first = 0
            for part, rows in zip(parts, widths[group], strict=True):
                places[f"model.layers.{at}.{part}.weight"] = Place(f"layers.{at}.{group}", first, rows)
                first += rows
    return places
