"""Tokens per expert: the file that `plan` reads, and the moving average that a run keeps.

One JSON line per layer: `{"layer": 0, "load": [812, 3, …], "state_mb": 63.0}`. Knows no node.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

from llmsys.artifacts import read_records, replace_file, source_name
from llmsys.errors import BadInput

__all__ = ["LayerLoad", "LoadAverage", "LoadTable", "read_loads", "write_loads", "zipf_loads"]

MEBIBYTE = 2**20
STATE_MB = 63.0
SCALE = 1000
SKEW = 1.42

Ints = NDArray[np.int64]
Tokens = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class LayerLoad(msgspec.Struct, frozen=True):
    """One layer: tokens per expert, and MiB of one expert's weights with its optimizer state (default GPT-S's)."""

    layer: Annotated[int, msgspec.Meta(ge=0)]
    load: Annotated[list[Tokens], msgspec.Meta(min_length=1)]
    state_mb: Annotated[float, msgspec.Meta(gt=0)] = STATE_MB


@dataclass(frozen=True, slots=True)
class LoadTable:
    """`loads` [L, E] int64 tokens; `state_bytes`: of one expert, per layer."""

    loads: Ints
    state_bytes: tuple[int, ...]


def read_loads(
    source: str | Path, *, on_error: str = "fail", on_skip: Callable[[BadInput], None] | None = None
) -> LoadTable:
    """The loads of all layers, which stand in order, 0 first. Raises BadInput at FILE:LINE."""
    width: list[int] = []

    def out_of_shape(record: LayerLoad) -> tuple[str, str] | None:
        if record.layer != len(width):
            return f"layer {record.layer}", f"layer {len(width)}: one line per layer, in order"
        if width and len(record.load) != width[0]:
            return f"{len(record.load)} experts in layer {record.layer}", f"{width[0]} as in layer 0"
        width.append(len(record.load))
        return None

    layers = list(read_records(source, LayerLoad, on_error=on_error, on_skip=on_skip, check=out_of_shape))
    if not layers:
        raise BadInput(source_name(source), "no layer", 'a line {"layer":0,"load":[…]} per layer')
    state_bytes = tuple(round(layer.state_mb * MEBIBYTE) for layer in layers)
    return LoadTable(np.array([layer.load for layer in layers], np.int64), state_bytes)


def write_loads(path: Path, loads: Ints, state_bytes: int) -> None:
    """Write loads [L, E] of experts with `state_bytes` each as the file that `read_loads` reads."""
    layers = (LayerLoad(layer, row, state_bytes / MEBIBYTE) for layer, row in enumerate(loads.tolist()))
    with replace_file(path) as file:
        file.writelines(msgspec.json.encode(layer) + b"\n" for layer in layers)


def zipf_loads(layers: int, experts: int, *, seed: int = 0, tokens: int = 40_960, exponent: float = SKEW) -> Ints:
    """Loads [L, E] that fall as rank**-exponent, shuffled per layer: a stand-in where none were measured.

    By default the two hottest of 32 experts take 55 % of the tokens, as they did on a real training trace.
    """
    shares = np.arange(1, experts + 1, dtype=np.float64) ** -exponent
    rng = np.random.default_rng(seed)
    counts = np.floor(shares / shares.sum() * tokens).astype(np.int64)
    return np.stack([rng.permutation(counts) for _ in range(layers)])


class LoadAverage:
    """The exponential moving average of tokens per expert over about `window` steps, [L, E].

    Every rank that adds the same counts reads the same integers.
    """

    def __init__(self, layers: int, experts: int, window: int = 200) -> None:
        if window < 1:
            raise ValueError(f"a window of {window} steps; expected at least 1")
        self._mean = np.zeros((layers, experts))
        self._keep = 1 - 1 / window
        self._weight = 0.0

    def add(self, counts: Ints) -> None:
        """Take the counts [L, E] of one step. Raises ValueError for another shape."""
        if counts.shape != self._mean.shape:
            raise ValueError(f"counts {counts.shape}; expected {self._mean.shape}")
        self._mean = self._mean * self._keep + counts * (1 - self._keep)
        self._weight = self._weight * self._keep + (1 - self._keep)

    def loads(self) -> Ints:
        """Thousandths of tokens per step [L, E] int64, the start-up bias taken out; zeros before the first step."""
        if not self._weight:
            return np.zeros(self._mean.shape, np.int64)
        return np.rint(self._mean / self._weight * SCALE).astype(np.int64)
