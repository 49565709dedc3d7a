"""Sizes of a mixture-of-experts language model: four presets and JSON. Knows no tensors.

GPT-S, -M and -L are the paper's (Lazarus, table 1) with a byte vocabulary in place of GPT-2's 50 257 tokens.
"""

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from llmsys.artifacts import decode_record
from llmsys.errors import BadInput, UsageFault

__all__ = ["PRESETS", "ModelShape", "read_shape"]

Positive = Annotated[int, msgspec.Meta(ge=1)]


class ModelShape(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A decoder: `layers` blocks of attention and a feed-forward part, every `moe_every`-th of them a mixture.

    `norm_topk`: a token's gates sum to 1 (Mixtral); otherwise they are the router's probabilities (Switch). `balance`:
    what evens the experts out, a `loss` or a `bias` on the choice alone (DeepSeek-V3). `dropout`: share of what the
    attention and the experts give that is set to 0.
    """

    layers: Positive = 4
    d_model: Positive = 128
    d_ff: Positive = 192
    heads: Positive = 4
    experts: Positive = 8
    top_k: Positive = 1
    vocab: Annotated[int, msgspec.Meta(ge=256)] = 256
    act: Literal["gelu", "swiglu"] = "gelu"
    moe_every: Positive = 1
    norm_topk: bool = False
    balance: Literal["loss", "bias"] = "loss"
    dropout: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0

    @property
    def mixtures(self) -> tuple[int, ...]:
        """The layers that are mixtures, ascending."""
        return tuple(layer for layer in range(self.layers) if (layer + 1) % self.moe_every == 0)

    @property
    def matrices(self) -> tuple[tuple[str, int, int], ...]:
        """The feed-forward matrices of one expert: name, rows in, columns out."""
        first = ("w1", self.d_model, self.d_ff)
        gate = (("w3", self.d_model, self.d_ff),) if self.act == "swiglu" else ()
        return (first, *gate, ("w2", self.d_ff, self.d_model))

    @property
    def parameters(self) -> int:
        """Numbers to train, every expert counted once."""
        feed_forward = sum(rows * columns for _, rows, columns in self.matrices)
        blocks = self.layers * (4 * self.d_model**2 + 2 * self.d_model)
        mixtures = len(self.mixtures) * (self.experts * feed_forward + self.d_model * self.experts)
        plain = (self.layers - len(self.mixtures)) * feed_forward
        return 2 * self.vocab * self.d_model + blocks + mixtures + plain + self.d_model

    def fault(self) -> str | None:
        """What does not fit together, or None."""
        if self.d_model % (2 * self.heads):
            return f"d_model {self.d_model} and {self.heads} heads; expected heads of an even width"
        if self.d_model % 8 or self.d_ff % 8:
            return (
                f"d_model {self.d_model} and d_ff {self.d_ff}; expected multiples of 8, as grouped products take them"
            )
        if self.top_k > self.experts:
            return f"top_k {self.top_k} of {self.experts} experts; expected at most all of them"
        if not self.mixtures:
            return f"moe_every {self.moe_every} in {self.layers} layers; expected one mixture at least"
        return None


PRESETS = {
    "tiny": ModelShape(),
    "gpt-s": ModelShape(layers=12, d_model=768, d_ff=3072, heads=12, experts=8),
    "gpt-m": ModelShape(layers=12, d_model=1024, d_ff=4096, heads=16, experts=12),
    "gpt-l": ModelShape(layers=12, d_model=1024, d_ff=4096, heads=16, experts=16),
}


def read_shape(
    model: str,
    *,
    experts: int | None = None,
    top_k: int | None = None,
    norm_topk: bool | None = None,
    balance: str | None = None,
) -> ModelShape:
    """The shape of a preset's name, of JSON (begins with "{") or of a JSON file, with fields replaced where given.

    Raises BadInput for JSON of another form, UsageFault for sizes that do not fit together.
    """
    if model in PRESETS:
        shape = PRESETS[model]
    else:
        given = model.lstrip().startswith("{")
        text = model.encode() if given else _content(model)
        shape = decode_record(text, msgspec.json.Decoder(ModelShape), "--model" if given else model)
    changes = {"experts": experts, "top_k": top_k, "norm_topk": norm_topk, "balance": balance}
    given_changes = {name: value for name, value in changes.items() if value is not None}
    shape = msgspec.convert(msgspec.structs.asdict(shape) | given_changes, ModelShape)
    fault = shape.fault()
    if fault is not None:
        raise UsageFault(f"--model: {fault}")
    return shape


def _content(model: str) -> bytes:
    try:
        return Path(model).read_bytes()
    except FileNotFoundError as error:
        raise BadInput(
            "--model", f"no model {model!r}", f"one of {', '.join(PRESETS)}, JSON or a file of it"
        ) from error
