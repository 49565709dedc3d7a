"""Choose the next token of every row: greedy, or drawn by inverse CDF with counter-based randomness.

One uniform number belongs to one (seed, choice, position), from Philox (Salmon et al., SC'11), so a seeded request
gives the same tokens whatever else is in its batch, after a preemption and across restarts. Knows nothing about text,
blocks or when a request ends. Drawing from a row never looks at another row, so the work is batched by kind of row:

    plain greedy      one argmax over all rows
    temperature only  softmax and one cumulative sum, in vocabulary order: nothing is sorted
    top-k, top-p      the largest 128 logits, then 2048, then all, until the cut lies within them
"""

from collections.abc import Sequence as Items
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmsys.engine.logits import changes_logits, transform_logits
from llmsys.engine.sequence import SamplingParams, Sequence

__all__ = ["Sampled", "sample", "uniform"]

_CUT_WIDTHS = (128, 2048)


@dataclass(frozen=True, slots=True)
class Sampled:
    """The choice for one row; with `error` set there is none and token_id is -1.

    logprob and top: of the model's own distribution before any transform, if the request asked for them.
    """

    token_id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    error: str | None = None


def uniform(seed: int, choice: int, position: int) -> float:
    """Return the number in [0, 1) that belongs to a seed, one of a request's n choices, and a position in its tokens.

    >>> uniform(7, 0, 21) == uniform(7, 0, 21) != uniform(7, 0, 22)
    True
    """
    bits = np.random.Philox(key=np.array([seed, choice], dtype=np.uint64), counter=position).random_raw()
    return (int(bits) >> 11) * 2.0**-53


def sample(logits: Tensor, sequences: Items[Sequence], eos_ids: frozenset[int]) -> list[Sampled]:
    """Choose one token per row, in order; a row without a usable number gets an error and no other row changes.

    Shapes: logits [n, vocab] float32, which is changed in place; one sequence per row.
    """
    tokens, best = _argmax(logits)
    errors = {int(row): "not a number in logits" for row in np.flatnonzero(~np.isfinite(best))}
    params = [sequence.request.sampling for sequence in sequences]
    reported = [row for row, p in enumerate(params) if p.logprobs is not None and row not in errors]
    scores = torch.log_softmax(logits[reported], dim=-1) if reported else None
    changed = [row for row, s in enumerate(sequences) if row not in errors and changes_logits(s)]
    if changed:
        tokens[changed], best[changed] = _transformed(logits, changed, sequences, eos_ids)
        errors.update((row, "no token is allowed") for row in changed if best[row] == -np.inf)
        errors.update((row, "not a number in logits") for row in changed if not best[row] < np.inf)
    drawn = [row for row, p in enumerate(params) if p.temperature > 0 and row not in errors]
    if drawn:
        tokens[drawn] = _draw(logits, drawn, sequences)
    chosen = tokens.tolist()
    reports = _report(scores, [(chosen[row], params[row].logprobs or 0) for row in reported])
    by_row = dict(zip(reported, reports, strict=True))
    return [
        Sampled(-1, error=errors[row]) if row in errors else Sampled(token, *by_row.get(row, ()))
        for row, token in enumerate(chosen)
    ]


def _argmax(logits: Tensor) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return (token, logit) [n] of each row's maximum, NaN if the row holds one.

    On a CPU by numpy: 0.1 ms for 32 rows of 49152, where torch's argmax takes 2.4 ms.
    """
    if logits.device.type == "cpu":
        rows = logits.numpy()
        tokens = rows.argmax(axis=-1)
        return tokens, np.take_along_axis(rows, tokens[:, None], axis=-1)[:, 0]
    values, indices = logits.max(dim=-1)
    return indices.cpu().numpy(), values.cpu().numpy()


def _transformed(
    logits: Tensor, rows: list[int], sequences: Items[Sequence], eos_ids: frozenset[int]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Apply the logits' transforms to some rows, in place, and return their new maxima."""
    part = logits[rows]
    transform_logits(part, [sequences[row] for row in rows], eos_ids)
    logits[rows] = part
    return _argmax(part)


def _draw(logits: Tensor, rows: list[int], sequences: Items[Sequence]) -> list[int]:
    """Draw one token for each of these rows by temperature, top-k, top-p and min-p."""
    params = [sequences[row].request.sampling for row in rows]
    points = [uniform(sequences[r].seed, sequences[r].index, len(sequences[r].token_ids)) for r in rows]
    scaled = logits[rows] / _column([p.temperature for p in params], logits)
    point = _column(points, logits, torch.float64)
    vocab = logits.shape[1]
    chosen: dict[int, int] = {}
    cut = [i for i, p in enumerate(params) if p.top_p < 1 or 0 < p.top_k < vocab]
    dense = [i for i in range(len(rows)) if i not in set(cut)]
    if dense:
        picked = _draw_dense(scaled[dense], [params[i] for i in dense], point[dense])
        chosen.update(zip(dense, picked, strict=True))
    for width in (*_CUT_WIDTHS, vocab):
        if cut:
            picked = _draw_cut(scaled[cut], [params[i] for i in cut], point[cut], min(width, vocab))
            chosen.update((i, token) for i, token in zip(cut, picked, strict=True) if token >= 0)
            cut = [i for i in cut if i not in chosen]
    return [chosen[i] for i in range(len(rows))]


def _draw_dense(scaled: Tensor, params: list[SamplingParams], point: Tensor) -> list[int]:
    """Inverse CDF in vocabulary order, for rows that only min-p may thin out."""
    probs = torch.softmax(scaled, dim=-1)
    if any(p.min_p for p in params):
        probs = _above_min_p(probs, params)
    return _invert(probs, point).tolist()


def _draw_cut(scaled: Tensor, params: list[SamplingParams], point: Tensor, width: int) -> list[int]:
    """Inverse CDF over the `width` largest logits in falling order; -1 where the cut is not within them.

    top-k keeps that many and normalises; top-p keeps the smallest head with a mass of at least top_p.
    """
    vocab = scaled.shape[1]
    values, tokens = scaled.topk(width, dim=-1)
    k = _column([p.top_k or vocab for p in params], scaled)
    top_p = _column([p.top_p for p in params], scaled)
    by_k = k <= width
    values = values.masked_fill(torch.arange(width, device=scaled.device) >= k, -torch.inf)
    mass = torch.where(by_k, values.logsumexp(dim=-1, keepdim=True), scaled.logsumexp(dim=-1, keepdim=True))
    probs = torch.exp(values - mass)
    total = probs.cumsum(dim=-1)
    complete = by_k | ((k == vocab) & (total[:, -1:] >= top_p)) | (width == vocab)
    probs = probs.masked_fill(total - probs >= top_p, 0.0)
    picked = tokens.gather(1, _invert(_above_min_p(probs, params), point)[:, None])
    return torch.where(complete, picked, -1)[:, 0].tolist()


def _above_min_p(probs: Tensor, params: list[SamplingParams]) -> Tensor:
    """Zero what is less likely than min_p times the most likely token."""
    least = _column([p.min_p for p in params], probs) * probs.amax(dim=-1, keepdim=True)
    return probs.masked_fill(probs < least, 0.0)


def _invert(probs: Tensor, point: Tensor) -> Tensor:
    """Return for each row the first index whose cumulative share exceeds the point; probs [n, m], point [n, 1]."""
    total = probs.cumsum(dim=-1, dtype=torch.float64)
    mass = total[:, -1:]
    target = torch.minimum(point * mass, torch.nextafter(mass, torch.zeros_like(mass)))
    return torch.searchsorted(total, target, right=True)[:, 0]


def _column(values: list[float] | list[int], like: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.tensor(values, dtype=dtype, device=like.device)[:, None]


def _report(scores: Tensor | None, wanted: list[tuple[int, int]]) -> list[tuple[float, tuple[tuple[int, float], ...]]]:
    """Return (log-probability, alternatives) per row; scores [n, vocab], wanted (token, how many) per row."""
    if scores is None:
        return []
    tokens = torch.tensor([token for token, _ in wanted], device=scores.device)
    own = scores.gather(1, tokens[:, None])[:, 0].tolist()
    widest = max(count for _, count in wanted)
    values, indices = (part.tolist() for part in scores.topk(min(widest, scores.shape[1]), dim=-1))
    return [
        (own[row], tuple(zip(indices[row][:count], values[row][:count], strict=True)))
        for row, (_, count) in enumerate(wanted)
    ]
