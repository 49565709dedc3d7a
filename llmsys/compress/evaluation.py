"""How far a compressed input is from the original: per tensor, and as the model's own predictions on text.

KL divergence is of the original's next-token distribution from the compressed model's, in nats per token; its standard
error and that of the difference in log-probability are over tokens, paired. Knows no codec.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from llmsys.compress.coded import Numbers
from llmsys.compress.decoding import Archive
from llmsys.compress.number_formats import from_words
from llmsys.errors import BadInput, UsageFault

if TYPE_CHECKING:
    from torch import Tensor

    from llmsys.engine.model import Decoder

__all__ = ["ModelScore", "TensorError", "compare_models", "compare_tensors", "logits_of", "text_ids"]

WINDOW = 512


class TensorError(msgspec.Struct, frozen=True):
    """One tensor against its original: squared error over variance, cosine, the largest error."""

    tensor: str
    codec: str
    nmse: float
    cosine: float
    max_error: float


class ModelScore(msgspec.Struct, frozen=True):
    """Predictions of both models on the same text; `_se` are standard errors over tokens."""

    tokens: int
    kl: float
    kl_se: float
    perplexity: float
    perplexity_original: float
    log_ratio: float
    log_ratio_se: float
    top1: float


@dataclass(slots=True)
class _Sums:
    """What one tensor's comparison adds up, span by span, in float64."""

    values: int = 0
    total: float = 0.0
    squares: float = 0.0
    other_squares: float = 0.0
    products: float = 0.0
    errors: float = 0.0
    largest: float = 0.0

    def add(self, original: np.ndarray, decoded: np.ndarray) -> None:
        a, b = original.astype(np.float64), decoded.astype(np.float64)
        gap = np.where(np.isfinite(a), a - b, 0.0)
        a, b = np.nan_to_num(a), np.nan_to_num(b)
        self.values += len(a)
        self.total += float(a.sum())
        self.squares += float(a @ a)
        self.other_squares += float(b @ b)
        self.products += float(a @ b)
        self.errors += float(gap @ gap)
        self.largest = max(self.largest, float(np.abs(gap).max(initial=0)))


def compare_tensors(archive: Archive, originals: list[Numbers]) -> Iterator[TensorError]:
    """A line for every coded float tensor. Raises BadInput where the original lacks it or has another shape."""
    known = {tensor.name: tensor for tensor in originals}
    for name in archive.names():
        container = archive.container(name)
        entry = container.entry(name)
        if entry is None or entry.codec == "raw" or not entry.format.is_float:
            continue
        original = known.get(name)
        if original is None or original.shape != entry.shape:
            found = "not there" if original is None else f"of shape {original.shape}"
            raise BadInput("the original", f"tensor {name!r} is {found}", f"shape {entry.shape}")
        sums = _Sums()
        for start, stop in container.spans(name):
            decoded = from_words(container.words(name, start, stop), entry.format)
            sums.add(original.floats(start, stop), decoded)
        yield _error_of(name, entry.codec, sums)


def _error_of(name: str, codec: str, sums: _Sums) -> TensorError:
    n = max(1, sums.values)
    variance = sums.squares / n - (sums.total / n) ** 2
    norm = math.sqrt(sums.squares * sums.other_squares)
    nmse = sums.errors / n / variance if variance > 0 else 0.0
    return TensorError(name, codec, nmse, sums.products / norm if norm else 1.0, sums.largest)


def compare_models(
    original: "Decoder", compressed: "Decoder", ids: list[int], *, advance: Callable[[int], None]
) -> ModelScore:
    """Score both models on windows of WINDOW tokens of `ids`; `advance` is told the tokens done.

    Raises UsageFault for fewer than two tokens.
    """
    import torch

    if len(ids) < 2:
        raise UsageFault(f"{len(ids)} tokens of text; expected two or more")
    kls, ours, theirs, agree = [], [], [], []
    for start in range(0, len(ids) - 1, WINDOW):
        window = ids[start : start + WINDOW]
        if len(window) < 2:
            break
        targets = torch.tensor(window[1:])[:, None]
        before = torch.log_softmax(logits_of(original, window)[:-1], -1)
        after = torch.log_softmax(logits_of(compressed, window)[:-1], -1)
        kls.append((before.exp() * (before - after)).sum(-1))
        theirs.append(before.gather(1, targets)[:, 0])
        ours.append(after.gather(1, targets)[:, 0])
        agree.append((before.argmax(-1) == after.argmax(-1)).float())
        advance(len(window))
    kl, log_ratio = torch.cat(kls), torch.cat(theirs) - torch.cat(ours)
    return ModelScore(
        tokens=len(kl),
        kl=float(kl.mean()),
        kl_se=_standard_error(kl),
        perplexity=math.exp(-float(torch.cat(ours).mean())),
        perplexity_original=math.exp(-float(torch.cat(theirs).mean())),
        log_ratio=float(log_ratio.mean()),
        log_ratio_se=_standard_error(log_ratio),
        top1=float(torch.cat(agree).mean()),
    )


def logits_of(decoder: "Decoder", ids: list[int]) -> "Tensor":
    """Scores of the next token after every token of one sequence, [tokens, vocabulary] float32."""
    import torch

    config = decoder.config

    angles = decoder.rotary.at(torch.arange(len(ids)))

    def attend(layer: int, qk: "Tensor", v: "Tensor") -> "Tensor":
        turned = decoder.rotary.rotate(qk, *angles)
        parts = (turned[:, : config.heads], turned[:, config.heads :], v)
        q, k, v = (part.transpose(0, 1)[None] for part in parts)
        mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return mixed[0].transpose(0, 1).reshape(len(ids), config.q_width)

    with torch.inference_mode():
        hidden = decoder.hidden_states(torch.tensor(ids), attend, None)
        return decoder.logits(hidden)


def text_ids(model: Path, text: Path, tokens: int) -> list[int]:
    """The first `tokens` token ids of a text by the tokenizer of a model."""
    from llmsys.engine.tokens import Tokenizer

    return Tokenizer.load(model).encode(text.read_text(encoding="utf-8"))[:tokens]


def _standard_error(values: "Tensor") -> float:
    return float(values.std() / math.sqrt(len(values))) if len(values) > 1 else 0.0
