"""Draw tokens from rows of logits under temperature, top-k, top-p and min-p, and report likely tokens.

On a CPU by compiled loops (`draw_loops`, which says what exactly is kept); elsewhere by the torch operations below,
their twin: the largest 128 logits if the cut lies within them, else a threshold from all, sorted. Inverse CDF in both,
in the vocabulary's order in the loops, in falling order where torch looks at the head. Knows nothing of requests.
"""

from collections.abc import Sequence as Items
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from llmsys.engine.sequence import SamplingParams

if TYPE_CHECKING:
    from llmsys.engine.team import TeamLoop

__all__ = ["Report", "draw", "draw_by_torch"]

_HEAD = 128
_SPAN = 256


def draw(logits: Tensor, rows: list[int], params: Items[SamplingParams], points: Items[float]) -> list[int]:
    """One token for each of some rows, whose point in [0, 1) says which.

    logits [n, vocab] float32 are left as they are; a row holds no NaN and no +inf, and at least one finite logit.
    """
    if not _has_loops(logits):
        return draw_by_torch(logits, rows, params, points)
    settings = [(p.temperature, p.top_k, p.top_p, p.min_p, point) for p, point in zip(params, points, strict=True)]
    numbers, whose, tokens = np.array(settings), np.array(rows), np.empty(len(rows), np.int64)
    addresses = (logits.data_ptr(), whose.ctypes.data, numbers.ctypes.data, tokens.ctypes.data)
    _draw_loop()(logits.shape[1], len(rows), *addresses)
    return [int(token) for token in tokens]


class Report:
    """Log-probabilities of the logits as they are now, of whatever tokens are asked for later.

    wanted: how many alternatives each reported row is to have.
    """

    def __init__(self, logits: Tensor, wanted: dict[int, int]) -> None:
        self._wanted = wanted
        self._rows = list(wanted)
        self._kept = logits[self._rows]
        most = min(max(wanted.values()), logits.shape[1])
        if _has_loops(logits):
            self._found, self._values, self._sums = _rank(self._kept, most)
        else:
            self._sums = self._kept.logsumexp(dim=-1)
            values, found = self._kept.topk(most, dim=-1)
            self._found, self._values = found, values

    def of(self, tokens: dict[int, int]) -> dict[int, tuple[float, tuple[tuple[int, float], ...]]]:
        """By row: the log-probability of its token, and its alternatives, likeliest first."""
        places = torch.tensor([tokens[row] for row in self._rows], device=self._kept.device)
        own = (self._kept.gather(1, places[:, None])[:, 0] - self._sums).tolist()
        values, found = (self._values - self._sums[:, None]).tolist(), self._found.tolist()
        return {
            row: (own[i], tuple(zip(found[i][:count], values[i][:count], strict=True)))
            for i, (row, count) in enumerate(self._wanted.items())
        }


def _rank(logits: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens and logits of the largest, [n, most] each, and the logarithm of the sum of all exp, [n]."""
    rows, vocab = logits.shape
    found, values = torch.zeros(rows, most, dtype=torch.int64), torch.zeros(rows, most)
    sums = torch.zeros(rows, dtype=torch.float64)
    _rank_loop()(vocab, rows, most, *(part.data_ptr() for part in (logits, found, values, sums)))
    return found, values, sums


def _has_loops(logits: Tensor) -> bool:
    return logits.device.type == "cpu" and logits.is_contiguous() and find_spec("numba") is not None


@cache
def _draw_loop() -> "TeamLoop":
    from llmsys.engine.draw_loops import draw_loop

    return draw_loop()


@cache
def _rank_loop() -> "TeamLoop":
    from llmsys.engine.draw_loops import rank_loop

    return rank_loop()


def draw_by_torch(logits: Tensor, rows: list[int], params: Items[SamplingParams], points: Items[float]) -> list[int]:
    """What `draw` says, in torch operations on any device."""
    scaled = logits[rows].div_(_column([p.temperature for p in params], logits))
    point = _column(list(points), logits, torch.float64)
    chosen = [-1] * len(rows)
    cut = [i for i, p in enumerate(params) if p.top_p < 1 or 0 < p.top_k < logits.shape[1]]
    if cut:
        _fill(chosen, cut, _draw_head(_rows(scaled, cut), [params[i] for i in cut], point[cut]))
    rest = [i for i, token in enumerate(chosen) if token < 0]
    if rest:
        _fill(chosen, rest, _draw_from_all(_rows(scaled, rest), [params[i] for i in rest], point[rest]))
    return chosen


def _rows(part: Tensor, rows: list[int]) -> Tensor:
    """Return these rows, without a copy if they are all there are."""
    return part if len(rows) == len(part) else part[rows]


def _fill(chosen: list[int], places: list[int], tokens: list[int]) -> None:
    for place, token in zip(places, tokens, strict=True):
        chosen[place] = token


def _draw_head(scaled: Tensor, params: list[SamplingParams], point: Tensor) -> list[int]:
    """Inverse CDF over the largest logits in falling order; -1 where the cut is not within them.

    top-k keeps that many and normalises; top-p keeps the smallest head with a mass of at least top_p.
    """
    vocab = scaled.shape[1]
    width = min(_HEAD, vocab)
    values, tokens = scaled.topk(width, dim=-1)
    k = _column([p.top_k or vocab for p in params], scaled)
    top_p = _column([p.top_p for p in params], scaled)
    by_k = k <= width
    values = values.masked_fill(torch.arange(width, device=scaled.device) >= k, -torch.inf)
    mass = values.logsumexp(dim=-1, keepdim=True)
    if not bool(by_k.all()):
        mass = torch.where(by_k, mass, scaled.logsumexp(dim=-1, keepdim=True))
    probs = torch.exp(values - mass)
    total = probs.cumsum(dim=-1)
    complete = by_k | ((k >= vocab) & (total[:, -1:] >= top_p))
    probs = probs.masked_fill(total - probs >= top_p, 0.0)
    picked = tokens.gather(1, _invert(_above_min_p(probs, params), point))
    return torch.where(complete, picked, -1)[:, 0].tolist()


def _draw_from_all(scaled: Tensor, params: list[SamplingParams], point: Tensor) -> list[int]:
    """Inverse CDF in vocabulary order over what is not below the rows' thresholds; equals of a threshold stay.

    Overwrites `scaled`: at this width every copy costs as much as the arithmetic.
    """
    cut = [i for i, p in enumerate(params) if p.top_p < 1 or 0 < p.top_k < scaled.shape[1]]
    if cut:
        bound = torch.full((len(params), 1), -torch.inf, device=scaled.device)
        bound[cut] = _thresholds(_rows(scaled, cut), [params[i] for i in cut])
        scaled.masked_fill_(scaled < bound, -torch.inf)
    weights = scaled.sub_(scaled.amax(dim=-1, keepdim=True)).exp_()
    return _invert(_above_min_p(weights, params), point)[:, 0].tolist()


def _thresholds(scaled: Tensor, params: list[SamplingParams]) -> Tensor:
    """Return [n, 1] the smallest logit that top-k and then top-p keep, from the sorted logits."""
    vocab = scaled.shape[1]
    ranked = _falling(scaled)
    k = _column([min(p.top_k or vocab, vocab) for p in params], scaled, torch.int64)
    kept = ranked.masked_fill(torch.arange(vocab, device=scaled.device) >= k, -torch.inf)
    probs = torch.softmax(kept, dim=-1)
    before = probs.cumsum(dim=-1).sub_(probs)
    count = (before < _column([p.top_p for p in params], scaled)).sum(dim=-1, keepdim=True)
    return ranked.gather(1, torch.minimum(count, k) - 1)


def _falling(scaled: Tensor) -> Tensor:
    """Sort every row, largest first; on a CPU by numpy, which does without the order and takes a tenth of the time."""
    if scaled.device.type == "cpu":
        return torch.from_numpy(np.sort(-scaled.numpy(), axis=-1)).neg_()
    return scaled.sort(dim=-1, descending=True).values


def _above_min_p(probs: Tensor, params: list[SamplingParams]) -> Tensor:
    """Zero what is less likely than min_p times the most likely token."""
    if not any(p.min_p for p in params):
        return probs
    least = _column([p.min_p for p in params], probs) * probs.amax(dim=-1, keepdim=True)
    return probs.masked_fill(probs < least, 0.0)


def _invert(probs: Tensor, point: Tensor) -> Tensor:
    """Return [n, 1] the first index whose cumulative share exceeds the point; probs [n, m], point [n, 1].

    First the span of 256 that holds it, by the spans' sums, then the place within: one cheap pass over a wide row.
    """
    rows, width = probs.shape
    spans = (torch.nn.functional.pad(probs, (0, -width % _SPAN)) if width % _SPAN else probs).view(rows, -1, _SPAN)
    sums = spans.sum(dim=-1).double().cumsum(dim=-1)
    span = _first_above(sums, point * sums[:, -1:])
    before = torch.where(span > 0, sums.gather(1, (span - 1).clamp(min=0)), 0.0)
    inside = spans.gather(1, span[:, :, None].expand(-1, 1, _SPAN))[:, 0].double().cumsum(dim=-1)
    return span * _SPAN + _first_above(inside, point * sums[:, -1:] - before)


def _first_above(total: Tensor, target: Tensor) -> Tensor:
    """Return [n, 1] the first index where the cumulative sum exceeds the target, at most the last that adds to it."""
    mass = total[:, -1:]
    bound = torch.nextafter(mass, torch.zeros_like(mass))
    return torch.searchsorted(total, torch.minimum(target, bound), right=True)


def _column(values: list[float] | list[int], like: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.tensor(values, dtype=dtype, device=like.device)[:, None]
