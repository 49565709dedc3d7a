"""Segmented LoRA on a CPU: y[s_i:s_i+1] += (x[s_i:s_i+1] A_i) B_i for every adapter of a step (Punica, §4).

Rows of a step are ordered by slot, rows of the base model last, so that an adapter's rows are one segment and base
rows are never touched. Each adapter's matrices stand in one piece of memory, at its own rank; the scale is folded into
B. Short segments go row by row through a compiled loop, which reads every matrix once; long ones are matmuls. Knows
nothing of files or of who asked for which adapter.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmsys.engine.model import ModelConfig

if TYPE_CHECKING:
    from llmsys.engine.team import TeamLoop

__all__ = ["GROUPS", "RANKS_AT_ONCE", "AdapterWeights", "LoraStep", "Segment", "group_widths", "segments_of"]

GROUPS = {
    "qkv": ("q_proj", "k_proj", "v_proj"),
    "o": ("o_proj",),
    "gate_up": ("gate_proj", "up_proj"),
    "down": ("down_proj",),
}
LONG_ROWS = 8
"""Rows of one adapter from which two matmuls cost less than the loop over its rows."""
RANKS_AT_ONCE = 4
"""A stored rank is a multiple of this; zeros fill up."""
_ELEMENTS = {torch.float32: np.float32, torch.bfloat16: np.uint16}


def group_widths(config: ModelConfig) -> dict[str, tuple[int, tuple[int, ...]]]:
    """Input width and the output widths of each target, by fused group."""
    return {
        "qkv": (config.hidden, (config.q_width, config.kv_width, config.kv_width)),
        "o": (config.q_width, (config.hidden,)),
        "gate_up": (config.hidden, (config.mlp, config.mlp)),
        "down": (config.mlp, (config.hidden,)),
    }


class AdapterWeights:
    """One adapter's factors for every layer and group, zeros where it has none.

    rank: its largest; a smaller one is filled up with zeros. dtype: float32 or bfloat16, that of the activations.
    """

    def __init__(self, config: ModelConfig, *, rank: int, dtype: torch.dtype) -> None:
        self.rank = -(-rank // RANKS_AT_ONCE) * RANKS_AT_ONCE
        self.layers = config.layers
        self.dtype = dtype
        self._widths = group_widths(config)
        self._a: dict[str, Tensor] = {}
        self._b: dict[str, Tensor] = {}
        self.present: dict[str, NDArray[np.int64]] = {}
        for group, (width, outs) in self._widths.items():
            self._a[group] = torch.zeros(config.layers, len(outs), self.rank, width, dtype=dtype)
            self._b[group] = torch.zeros(config.layers, self.rank * sum(outs), dtype=dtype)
            self.present[group] = np.zeros(config.layers, np.int64)

    @property
    def bytes(self) -> int:
        """Memory that the factors take."""
        return sum(tensor.nbytes for tensor in (*self._a.values(), *self._b.values()))

    def put(self, layer: int, target: str, a: Tensor, b: Tensor) -> None:
        """Place one target's factors: a [r, in] and b [out, r] with the scale folded in."""
        group = next(name for name, targets in GROUPS.items() if target in targets)
        index = GROUPS[group].index(target)
        own_a, own_b = self.factors(layer, group, index)
        own_a[: a.shape[0]] = a
        own_b[: a.shape[0]] = b.t()
        self.present[group][layer] |= 1 << index

    def factors(self, layer: int, group: str, index: int) -> tuple[Tensor, Tensor]:
        """A [rank, in] and B [rank, out] of one target, which are the memory itself."""
        outs = self._widths[group][1]
        start, end = self.rank * sum(outs[:index]), self.rank * sum(outs[: index + 1])
        return self._a[group][layer, index], self._b[group][layer, start:end].view(self.rank, outs[index])

    def addresses(self, group: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where A and B of every layer start: [layers] each."""
        layers = np.arange(self.layers)
        a, b = self._a[group], self._b[group]
        return a.data_ptr() + layers * a[0].nbytes, b.data_ptr() + layers * b[0].nbytes


@dataclass(frozen=True, slots=True)
class Segment:
    """Rows start..end of the step use adapter `slot`."""

    slot: int
    start: int
    end: int


def segments_of(slots: Sequence[int]) -> tuple[Segment, ...]:
    """The segments of a step whose rows are ordered by slot; -1 (the base model) gives none.

    >>> segments_of([0, 0, 2, -1])
    (Segment(slot=0, start=0, end=2), Segment(slot=2, start=2, end=3))
    """
    found, start = [], 0
    for slot, rows in groupby(slots):
        end = start + sum(1 for _ in rows)
        if slot >= 0:
            found.append(Segment(slot, start, end))
        start = end
    return tuple(found)


class LoraStep:
    """One step's segments: what the decoder adds to each projection. Holds the weights as long as the step lasts.

    long_rows: segments of at least so many rows are matmuls, shorter ones go through the loop.
    """

    def __init__(
        self, config: ModelConfig, parts: Iterable[tuple[Segment, AdapterWeights]], *, long_rows: int = LONG_ROWS
    ) -> None:
        parts = list(parts)
        self._widths = group_widths(config)
        self._long = [part for part in parts if _rows(part[0]) >= long_rows or not _has_loop(part[1].dtype)]
        short = [part for part in parts if part not in self._long]
        self._whose = {group: _addresses(short, group, config.layers) for group in GROUPS}

    def add(self, y: Tensor, x: Tensor, layer: int, group: str) -> Tensor:
        """Add the adapters' part of projection `group` to y [T, out] in place, from x [T, in], both contiguous.

        Summed in float32 and rounded once, when it is added.
        """
        whose = self._whose[group][layer]
        if whose.shape[0] and whose[:, 4].any():
            self._add_rows(y, x, whose, group)
        for segment, weights in self._long:
            self._add_segment(y, x, segment, weights, layer, group)
        return y

    def _add_rows(self, y: Tensor, x: Tensor, whose: NDArray[np.int64], group: str) -> None:
        outs = self._widths[group][1]
        bounds = _bounds(outs)
        sizes = (x.shape[0], x.shape[1], y.shape[1], len(outs), whose.shape[0])
        _loop(x.dtype)(*sizes, y.data_ptr(), x.data_ptr(), bounds.ctypes.data, whose.ctypes.data)

    def _add_segment(
        self, y: Tensor, x: Tensor, segment: Segment, weights: AdapterWeights, layer: int, group: str
    ) -> None:
        rows, bounds = slice(segment.start, segment.end), _bounds(self._widths[group][1])
        own = x[rows].float()
        for index in range(len(bounds) - 1):
            if weights.present[group][layer] >> index & 1:
                a, b = weights.factors(layer, group, index)
                y[rows, bounds[index] : bounds[index + 1]] += (own @ a.float().t()) @ b.float()


def _addresses(parts: Sequence[tuple[Segment, AdapterWeights]], group: str, layers: int) -> NDArray[np.int64]:
    """What the loop reads of every row: [layers, rows, 5]."""
    columns = []
    for segment, weights in parts:
        a, b = weights.addresses(group)
        for row in range(segment.start, segment.end):
            fixed = np.full((2, layers), ((row,), (weights.rank,)))
            columns.append(np.stack([fixed[0], a, b, fixed[1], weights.present[group]], axis=1))
    return np.ascontiguousarray(np.stack(columns, axis=1)) if columns else np.zeros((layers, 0, 5), np.int64)


@cache
def _bounds(outs: tuple[int, ...]) -> NDArray[np.int64]:
    """Columns of a fused projection where its targets begin and end."""
    return np.cumsum([0, *outs])


def _rows(segment: Segment) -> int:
    return segment.end - segment.start


@cache
def _has_loop(dtype: torch.dtype) -> bool:
    """Whether there is a compiled loop for this format, and the compiler for it on this machine."""
    return dtype in _ELEMENTS and find_spec("numba") is not None


@cache
def _loop(dtype: torch.dtype) -> "TeamLoop":
    from llmsys.engine.lora_loops import row_loop

    return row_loop(_ELEMENTS[dtype])
