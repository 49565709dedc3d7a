"""Segmented LoRA on a CPU: y[s_i:s_i+1] += (x[s_i:s_i+1] A_i) B_i for every adapter of a step (Punica, §4).

Rows of a step are ordered by slot, rows of the base model last, so that an adapter's rows are one segment and base
rows are never touched. Weights of one rank bucket stand in arenas [slots, rank, in] and [slots, rank, out] per layer
and fused group; the scale is folded into B. Knows nothing of files or of who asked for which adapter.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from llmsys.engine.model import ModelConfig

__all__ = ["GROUPS", "AdapterArena", "LoraStep", "Segment", "group_widths", "segments_of"]

GROUPS = {
    "qkv": ("q_proj", "k_proj", "v_proj"),
    "o": ("o_proj",),
    "gate_up": ("gate_proj", "up_proj"),
    "down": ("down_proj",),
}
BATCHED_FROM = 4
"""Segments from which one padded batched matmul beats a matmul per segment, if they are short and fill their span."""


def group_widths(config: ModelConfig) -> dict[str, tuple[int, tuple[int, ...]]]:
    """Input width and the output widths of each target, by fused group."""
    return {
        "qkv": (config.hidden, (config.q_width, config.kv_width, config.kv_width)),
        "o": (config.q_width, (config.hidden,)),
        "gate_up": (config.hidden, (config.mlp, config.mlp)),
        "down": (config.mlp, (config.hidden,)),
    }


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


class AdapterArena:
    """The adapters of one rank bucket: per layer and group, A [slots, R, in] and B [slots, R, out].

    R is the bucket's rank times the targets of the group; B is block-structured, so one product serves all targets.
    """

    def __init__(self, config: ModelConfig, *, rank: int, slots: int, dtype: torch.dtype) -> None:
        self.rank = rank
        self.slots = slots
        self._widths = group_widths(config)
        self._a: dict[str, Tensor] = {}
        self._b: dict[str, Tensor] = {}
        for group, (width, outs) in self._widths.items():
            rows = rank * len(outs)
            self._a[group] = torch.zeros(config.layers, slots, rows, width, dtype=dtype)
            self._b[group] = torch.zeros(config.layers, slots, rows, sum(outs), dtype=dtype)

    def put(self, slot: int, layer: int, target: str, a: Tensor, b: Tensor) -> None:
        """Place one target's factors: a [r, in] and b [out, r] with the scale folded in, r up to the bucket's rank."""
        group = next(name for name, targets in GROUPS.items() if target in targets)
        index = GROUPS[group].index(target)
        outs = self._widths[group][1]
        first_row, first_out = index * self.rank, sum(outs[:index])
        self._a[group][layer, slot, first_row : first_row + a.shape[0]] = a
        self._b[group][layer, slot, first_row : first_row + a.shape[0], first_out : first_out + b.shape[0]] = b.t()

    def clear(self, slot: int) -> None:
        """Make a slot's adapter the zero adapter."""
        for arena in (*self._a.values(), *self._b.values()):
            arena[:, slot] = 0

    def factors(self, layer: int, group: str) -> tuple[Tensor, Tensor]:
        """A [slots, R, in] and B [slots, R, out] of a layer."""
        return self._a[group][layer], self._b[group][layer]


class LoraStep:
    """One step's segments against one or more arenas: what the decoder adds to each projection."""

    def __init__(self, parts: Sequence[tuple[AdapterArena, tuple[Segment, ...]]]) -> None:
        self._loops: list[tuple[AdapterArena, tuple[Segment, ...]]] = []
        self._batches: list[tuple[AdapterArena, _Padded]] = []
        for arena, segments in parts:
            padded = _Padded.of(segments)
            if padded is None:
                self._loops.append((arena, segments))
            else:
                self._batches.append((arena, padded))

    def add(self, y: Tensor, x: Tensor, layer: int, group: str) -> Tensor:
        """Add the adapters' part of projection `group` to y [T, out] in place, from x [T, in]."""
        for arena, segments in self._loops:
            a, b = arena.factors(layer, group)
            for s in segments:
                rows = y[s.start : s.end]
                rows.addmm_(x[s.start : s.end] @ a[s.slot].t(), b[s.slot])
        for arena, padded in self._batches:
            a, b = arena.factors(layer, group)
            padded.add(y, x, a, b)
        return y


@dataclass(frozen=True, slots=True)
class _Padded:
    """Segments as one block [slots, longest, …]: `gather` fills it from rows, `place` finds each row in it.

    `aligned`: the rows are the block already, as where every slot of a span has one row; then nothing is moved.
    """

    first_slot: int
    slots: int
    longest: int
    start: int
    end: int
    gather: Tensor
    place: Tensor
    aligned: bool

    @classmethod
    def of(cls, segments: tuple[Segment, ...]) -> "_Padded | None":
        """The padded form, or None where a matmul per segment is cheaper."""
        if len(segments) < BATCHED_FROM:
            return None
        first, last = segments[0].slot, segments[-1].slot
        slots, longest = last - first + 1, max(s.end - s.start for s in segments)
        start, end = segments[0].start, segments[-1].end
        if slots > 2 * len(segments) or slots * longest > 4 * (end - start):
            return None
        place = torch.cat([torch.arange(s.end - s.start) + (s.slot - first) * longest for s in segments])
        gather = torch.full((slots * longest,), start)
        gather[place] = torch.arange(start, end)
        return cls(first, slots, longest, start, end, gather, place, aligned=slots * longest == end - start)

    def add(self, y: Tensor, x: Tensor, a: Tensor, b: Tensor) -> None:
        span = slice(self.first_slot, self.first_slot + self.slots)
        rows = x[self.start : self.end] if self.aligned else x[self.gather]
        block = rows.view(self.slots, self.longest, -1)
        shrunk = torch.bmm(block, a[span].transpose(1, 2))
        if self.aligned:
            y[self.start : self.end].view(self.slots, self.longest, -1).baddbmm_(shrunk, b[span])
        else:
            out = torch.bmm(shrunk, b[span])
            y[self.start : self.end] += out.view(self.slots * self.longest, -1)[self.place]
