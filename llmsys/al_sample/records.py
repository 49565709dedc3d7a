"""Lines that cross the command's boundary: what `select` writes, and what a labeller adds to it.

A line names the pool that it was made from by checksum; lines of another pool are refused. Unknown fields pass through
other programs and are not looked at. Knows no method and no fit.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from llmsys.al_sample.pools import Pool
from llmsys.al_sample.selection import Selection
from llmsys.artifacts import read_records, source_name
from llmsys.errors import BadInput

__all__ = ["LabelLine", "Labels", "SelectionLine", "read_excluded", "read_labels", "read_selection", "selection_lines"]

Fault = tuple[str, str]
Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


class SelectionLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """One chosen point. `weight` scales its squared residual; `leverage` is n·D·τ/n; see `Selection`."""

    index: int
    weight: float
    id: str | int | None = None
    p: float | None = None
    leverage: float | None = None
    method: str | None = None
    seed: int | None = None
    draws: int | None = None
    pool: str | None = None
    alpha: float | None = None
    alpha_k: float | None = None
    x: list[float] | None = None


class LabelLine(msgspec.Struct, frozen=True):
    """A chosen point with its label: a number, several, or null where the labeller refused."""

    index: int
    y: float | list[float] | None
    weight: float = 1.0
    p: float | None = None
    pool: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """Labelled rows, each once and sorted [k]; `y` [k, o]; `p` [k] is the chance to be chosen, 0 where unsaid.

    `repeats` [k] counts the equal lines that were averaged; `refused` lines had no label.
    """

    index: Indices
    weight: Floats
    p: Floats
    y: Floats
    repeats: Indices
    refused: int = 0

    def __len__(self) -> int:
        return len(self.index)


def selection_lines(pool: Pool, chosen: Selection, *, with_x: bool = False) -> Iterator[SelectionLine]:
    """The lines of a selection, sorted by row."""
    checksum = pool.checksum()
    for at, index in enumerate(chosen.index.tolist()):
        yield SelectionLine(
            index=index,
            id=pool.id_of(index),
            weight=float(chosen.weight[at]),
            p=float(chosen.p[at]),
            leverage=float(chosen.leverage[at]),
            method=chosen.method,
            seed=chosen.seed,
            draws=int(chosen.draws[at]),
            pool=checksum,
            alpha=None if chosen.alpha is None else float(chosen.alpha[at]),
            alpha_k=None if chosen.alpha_k is None else float(chosen.alpha_k[at]),
            x=np.asarray(pool.values[index], np.float64).tolist() if with_x else None,
        )


def read_selection(source: str, pool: Pool) -> list[SelectionLine]:
    """The lines of a selection, each row once. Raises BadInput at FILE:LINE for rows that the pool lacks, rows twice,
    weights that are not above 0, and another pool's checksum."""
    seen: set[int] = set()
    checksum = pool.checksum()

    def check(line: SelectionLine) -> Fault | None:
        if line.index in seen:
            return f"index {line.index} a second time", "an index of its own on every line"
        seen.add(line.index)
        return _line_fault(line.index, line.weight, line.pool, len(pool), checksum)

    lines = list(read_records(source, SelectionLine, check=check))
    if not lines:
        raise BadInput(source_name(source), "no line", "a selection, one point a line")
    return sorted(lines, key=lambda line: line.index)


def read_labels(
    source: str, pool: Pool, *, on_error: str = "fail", on_skip: Callable[[BadInput], None] | None = None
) -> Labels:
    """Selection lines with `y`. Equal indices with equal weight are averaged; null labels are counted and left out.

    Raises BadInput at FILE:LINE as `read_selection` does, and for labels that are not finite or differ in number.
    """
    check = _LabelCheck(len(pool), pool.checksum())
    lines = list(read_records(source, LabelLine, on_error=on_error, on_skip=on_skip, check=check))
    rows: dict[int, list[list[float]]] = {}
    about: dict[int, LabelLine] = {}
    for line in lines:
        if line.y is not None:
            rows.setdefault(line.index, []).append(line.y if isinstance(line.y, list) else [line.y])
            about[line.index] = line
    if not rows:
        raise BadInput(source_name(source), "no label", "lines with `index`, `weight` and `y`")
    index = np.array(sorted(rows), np.int64)
    return Labels(
        index,
        np.array([about[i].weight for i in index.tolist()]),
        np.array([about[i].p or 0.0 for i in index.tolist()]),
        np.array([np.mean(rows[i], axis=0) for i in index.tolist()]),
        np.array([len(rows[i]) for i in index.tolist()], np.int64),
        sum(line.y is None for line in lines),
    )


def read_excluded(source: str, pool: Pool) -> Indices:
    """The rows that any lines with an `index` name. Raises BadInput for rows that the pool lacks."""
    checksum = pool.checksum()
    found = read_records(
        source, _IndexLine, check=lambda line: _line_fault(line.index, 1.0, line.pool, len(pool), checksum)
    )
    return np.unique(np.array([line.index for line in found], np.int64))


class _IndexLine(msgspec.Struct, frozen=True):
    index: int
    pool: str | None = None


class _LabelCheck:
    """Judges each label by the lines before it."""

    def __init__(self, n: int, checksum: str) -> None:
        self.n = n
        self.checksum = checksum
        self.outputs: int | None = None
        self.weights: dict[int, float] = {}

    def __call__(self, line: LabelLine) -> Fault | None:
        fault = _line_fault(line.index, line.weight, line.pool, self.n, self.checksum)
        if fault is not None or line.y is None:
            return fault
        numbers = line.y if isinstance(line.y, list) else [line.y]
        if not numbers or not np.isfinite(numbers).all():
            return f"label {line.y}", "finite numbers"
        if self.outputs not in (None, len(numbers)):
            return f"a label of {len(numbers)} numbers", f"{self.outputs}, as before"
        if self.weights.setdefault(line.index, line.weight) != line.weight:
            return (
                f"index {line.index} again with weight {line.weight}",
                f"the weight {self.weights[line.index]} of before",
            )
        self.outputs = len(numbers)
        return None


def _line_fault(index: int, weight: float, pool: str | None, n: int, checksum: str) -> Fault | None:
    if not 0 <= index < n:
        return f"index {index}", f"a row of the pool, 0 to {n - 1}"
    if not 0 < weight < float("inf"):
        return f"weight {weight}", "a finite number above 0"
    if pool not in (None, checksum):
        return f"a line made from pool {pool}", f"one made from this pool, {checksum}"
    return None
