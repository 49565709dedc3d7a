"""How a tensor of any shape lies before a codec: lines of a width, and chunks of whole lines.

A matrix keeps its rows as lines, so that rows and columns mean something to a codec; anything else is cut into lines
that give every lane work. Knows no codec.
"""

import math
from dataclasses import dataclass

from llmsys.compress.rans import LANES
from llmsys.compress.records import CHUNK_VALUES, WIDEST_LINE

__all__ = ["Layout", "layout_of"]

LONGEST_CUT = 4096


@dataclass(frozen=True, slots=True)
class Layout:
    """`values` numbers in lines of `width`; `columns` says whether a column of lines is a column of the tensor."""

    values: int
    width: int
    columns: bool

    @property
    def lines(self) -> int:
        """Lines, the last of which may be short."""
        return -(-self.values // self.width)

    def chunks(self) -> list[tuple[int, int]]:
        """(first line, lines) of every chunk: as many whole lines as fit CHUNK_VALUES, in multiples of the lanes."""
        step = CHUNK_VALUES // self.width
        step = step // LANES * LANES or step
        return [(first, min(step, self.lines - first)) for first in range(0, self.lines, step)]

    def span(self, first_line: int, lines: int) -> tuple[int, int]:
        """Numbers of the first value of some lines and of the first one after them."""
        return first_line * self.width, min(self.values, (first_line + lines) * self.width)


def layout_of(shape: tuple[int, ...]) -> Layout:
    """The layout of a tensor: rows as lines where there are LANES of them and they are not too wide.

    >>> layout_of((1536, 576))
    Layout(values=884736, width=576, columns=True)
    >>> layout_of((50_000,)).width
    782
    """
    values = math.prod(shape)
    inner = shape[-1] if len(shape) > 1 else 0
    if 8 <= inner <= WIDEST_LINE and values >= LANES * inner:
        return Layout(values, inner, True)
    return Layout(values, max(1, min(LONGEST_CUT, -(-values // (2 * LANES)))), False)
