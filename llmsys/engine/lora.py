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

from llmsys.engine.dora import Gains, fold_magnitudes
from llmsys.engine.factors import GROUPS, Factor, group_widths
from llmsys.engine.model import Decoder, ModelConfig

if TYPE_CHECKING:
    from llmsys.engine.team import TeamLoop

__all__ = ["LONG_ROWS", "AdapterWeights", "HostAdapters", "LoraStep", "Segment", "segments_of"]

LONG_ROWS = 64
"""Rows of one adapter from which matmuls cost less than the loop over its rows, at ranks of 32 and more."""
_ELEMENTS = {torch.float32: np.float32, torch.bfloat16: np.uint16}


class AdapterWeights:
    """One adapter's factors for every layer and group, zeros where it has none.

    rank: its largest; a smaller one is filled up with zeros. Of one layer and group, A [slices, rank, in] and every
    slice's B [rank, out] stand one after the other.
    """

    def __init__(self, config: ModelConfig, *, rank: int, dtype: torch.dtype) -> None:
        self.rank = rank
        self.dtype = dtype
        self.gains: Gains | None = None
        self._widths = group_widths(config)
        self._memory: dict[str, Tensor] = {}
        self.present: dict[str, NDArray[np.int64]] = {}
        for group, (width, outs) in self._widths.items():
            self._memory[group] = torch.zeros(config.layers, rank * (len(outs) * width + sum(outs)), dtype=dtype)
            self.present[group] = np.zeros(config.layers, np.int64)

    @property
    def bytes(self) -> int:
        """Memory that the factors, and the gains if there are any, take."""
        return sum(tensor.nbytes for tensor in self._memory.values()) + (self.gains.bytes if self.gains else 0)

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
        width, outs = self._widths[group]
        memory = self._memory[group][layer]
        a = memory[index * self.rank * width : (index + 1) * self.rank * width]
        start = self.rank * (len(outs) * width + sum(outs[:index]))
        b = memory[start : start + self.rank * outs[index]]
        return a.view(self.rank, width), b.view(self.rank, outs[index])

    def facts(self, group: str) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Where each layer's matrices of a group start, their rank, and a bit for each target: [layers] each."""
        memory = self._memory[group]
        starts = memory.data_ptr() + np.arange(len(memory)) * memory[0].nbytes
        return starts, np.full(len(memory), self.rank), self.present[group]


class HostAdapters:
    """Each adapter in memory of its own: the `AdapterMemory` of a CPU.

    long_rows: as `LoraStep` says; decoder: the base model, which adapters with magnitudes need.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        dtype: torch.dtype,
        long_rows: int = LONG_ROWS,
        decoder: Decoder | None = None,
    ) -> None:
        self._config = config
        self._dtype = dtype
        self._long_rows = long_rows
        self._decoder = decoder

    def bytes_of(self, rank: int) -> int:
        """As the protocol says."""
        numbers = sum(len(outs) * width + sum(outs) for width, outs in group_widths(self._config).values())
        return rank * numbers * self._config.layers * self._dtype.itemsize

    def prepare(self, rank: int, factors: Iterable[Factor]) -> AdapterWeights:
        """As the protocol says: nothing here belongs to the engine's thread."""
        return self.place(rank, factors)

    def place(self, rank: int, factors: Iterable[Factor]) -> AdapterWeights:
        """As the protocol says."""
        weights = AdapterWeights(self._config, rank=rank, dtype=self._dtype)
        plain, weights.gains = fold_magnitudes(factors, self._decoder)
        for factor in plain:
            weights.put(factor.layer, factor.target, factor.a, factor.b)
        return weights

    def drop(self, held: AdapterWeights) -> None:
        """As the protocol says: the last reference frees it."""

    def step(self, parts: Sequence[tuple["Segment", AdapterWeights]]) -> "LoraStep":
        """As the protocol says."""
        return LoraStep(self._config, parts, long_rows=self._long_rows)


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
        self._gains = [(slice(part.start, part.end), w.gains) for part, w in parts if w.gains is not None]
        self._long = [part for part in parts if _rows(part[0]) >= long_rows or not _has_loop(part[1].dtype)]
        self._short = [part for part in parts if part not in self._long]
        self._calls = {group: _Call.of(self._short, group, self._widths[group][1], config.layers) for group in GROUPS}

    def add(self, y: Tensor, x: Tensor, layer: int, group: str) -> Tensor:
        """Add the adapters' part of projection `group` to y [T, out] in place, from x [T, in], both contiguous.

        Summed in float32 and rounded once, when it is added.
        """
        for rows, gains in self._gains:
            gains.apply(y[rows], layer, group)
        call = self._calls[group]
        if call.used[layer]:
            sizes = (x.shape[0], x.shape[1], y.shape[1], len(call.bounds) - 1, call.whose.shape[1])
            whose = call.whose_address + layer * call.layer_bytes
            _loop(x.dtype)(*sizes, y.data_ptr(), x.data_ptr(), call.bounds_address, whose)
        for segment, weights in self._long:
            self._add_segment(y, x, segment, weights, layer, group)
        return y

    def _add_segment(
        self, y: Tensor, x: Tensor, segment: Segment, weights: AdapterWeights, layer: int, group: str
    ) -> None:
        rows, bounds = slice(segment.start, segment.end), self._calls[group].bounds
        own = x[rows].float()
        for index in range(len(bounds) - 1):
            if weights.present[group][layer] >> index & 1:
                a, b = weights.factors(layer, group, index)
                y[rows, bounds[index] : bounds[index + 1]] += (own @ a.float().t()) @ b.float()


@dataclass(frozen=True, slots=True)
class _Call:
    """What the loop is told of a group's rows: `whose` [layers, rows, 4] as it reads it, and where that stands.

    bounds: columns of the fused projection where its targets begin and end; used: whether a layer has anything to add.
    """

    whose: NDArray[np.int64]
    bounds: NDArray[np.int64]
    whose_address: int
    bounds_address: int
    layer_bytes: int
    used: list[bool]

    @classmethod
    def of(
        cls, parts: Sequence[tuple[Segment, AdapterWeights]], group: str, outs: tuple[int, ...], layers: int
    ) -> "_Call":
        columns = [
            np.stack([np.full(layers, row), *weights.facts(group)], axis=1)
            for segment, weights in parts
            for row in range(segment.start, segment.end)
        ]
        whose = np.ascontiguousarray(np.stack(columns, axis=1)) if columns else np.zeros((layers, 0, 4), np.int64)
        used: list[bool] = [bool(bits.any()) for bits in whose[:, :, 3]]
        bounds = np.cumsum([0, *outs])
        return cls(whose, bounds, whose.ctypes.data, bounds.ctypes.data, whose[0].nbytes, used)


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
