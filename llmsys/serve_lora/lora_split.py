"""What adapters add to a step, taken apart: shrink (x A), expand (+= V B), and the base step they come on top of.

The engine's own compiled loop runs over real adapters' memory, once as it is and once told that its outputs have no
columns, which leaves the shrink alone; what is missing to the whole is the expand. Every layer has its own weights, so
that no run finds them in a cache that a real step would not. Knows nothing of requests.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from llmsys.engine.factors import GROUPS, group_widths
from llmsys.engine.lora import AdapterWeights
from llmsys.engine.lora_loops import row_loop
from llmsys.engine.model import ModelConfig
from llmsys.gpu import measure

__all__ = ["LoraSplit", "measure_split"]

ELEMENTS = {torch.float32: np.float32, torch.bfloat16: np.uint16}


@dataclass(frozen=True, slots=True)
class LoraSplit:
    """Seconds of one step's low-rank part at a batch of decode rows; bytes are those of the distinct adapters."""

    rows: int
    adapters: int
    shrink_s: float
    expand_s: float
    adapter_bytes: int

    @property
    def whole_s(self) -> float:
        """Both together."""
        return self.shrink_s + self.expand_s


def measure_split(
    config: ModelConfig, adapters: Sequence[AdapterWeights], *, rows: int, dtype: torch.dtype, runs: int = 5
) -> LoraSplit:
    """Time the loops of one decode step of `rows` rows that use the adapters in turn, sorted by adapter.

    Raises ValueError for a dtype without a compiled loop, or more adapters than rows.
    """
    if dtype not in ELEMENTS or not 0 < len(adapters) <= rows:
        raise ValueError(
            f"{len(adapters)} adapters on {rows} rows of {dtype}; expected 1 to {rows}, float32 or bfloat16"
        )
    calls = [_Group(config, group, adapters, rows, dtype) for group in GROUPS]

    def step(*, columns: bool) -> None:
        for layer in range(config.layers):
            for call in calls:
                call.run(layer, columns=columns)

    whole_s = measure(partial(step, columns=True), runs=runs, warmup=2).min_s
    shrink_s = min(measure(partial(step, columns=False), runs=runs, warmup=2).min_s, whole_s)
    return LoraSplit(rows, len(adapters), shrink_s, whole_s - shrink_s, sum(one.bytes for one in adapters))


class _Group:
    """One fused projection of a step: its input, its output, and whose matrices each row goes through."""

    def __init__(
        self, config: ModelConfig, group: str, adapters: Sequence[AdapterWeights], rows: int, dtype: torch.dtype
    ) -> None:
        width, outs = group_widths(config)[group]
        self._loop = row_loop(ELEMENTS[dtype])
        self._x = torch.full((rows, width), 0.5, dtype=dtype)
        self._y = torch.zeros(rows, sum(outs), dtype=dtype)
        self._bounds: NDArray[np.int64] = np.cumsum([0, *outs])
        self._no_columns = np.zeros(len(outs) + 1, np.int64)
        columns = [
            np.stack([np.full(config.layers, row), *adapters[row * len(adapters) // rows].facts(group)], axis=1)
            for row in range(rows)
        ]
        self._whose: NDArray[np.int64] = np.ascontiguousarray(np.stack(columns, axis=1))  # [layers, rows, 4]

    def run(self, layer: int, *, columns: bool) -> None:
        """Add one layer's part to y, or without columns compute x A alone."""
        bounds = self._bounds if columns else self._no_columns
        rows, width = self._x.shape
        sizes = (rows, width, self._y.shape[1], len(bounds) - 1, self._whose.shape[1])
        addresses = (self._y.data_ptr(), self._x.data_ptr(), bounds.ctypes.data, self._whose[layer].ctypes.data)
        self._loop(*sizes, *addresses)
