"""Where keys and values live on a CPU: one lazily committed arena per layer, one row per sequence.

The memory manager of the machine is the page table: untouched pages cost nothing, a finished row is handed back.
Rows in use are kept dense, so that memory is handed back from the end. Knows nothing of tokens or scheduling.
"""

import mmap
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["LayerCache", "RowKV", "Span"]

PAGE_TOKENS = 64
"""Rows are a multiple of this many tokens, so that each starts on a page of memory."""


class LayerCache(NamedTuple):
    """One layer's keys and values, each [rows, kv_heads, max_len, head_dim]."""

    keys: Tensor
    values: Tensor


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens first..first+count of a step's flat batch are tokens start..end of a sequence."""

    sequence_id: int
    first: int
    start: int
    count: int

    @property
    def end(self) -> int:
        """The sequence's length after the step."""
        return self.start + self.count

    @property
    def decodes(self) -> bool:
        """Whether it is one new token after others, not a part of a prompt."""
        return self.count == 1 and self.start > 0


class RowKV:
    """[rows, kv_heads, max_len, head_dim] per layer, for keys and for values, in anonymous memory."""

    def __init__(
        self, *, layers: int, rows: int, kv_heads: int, max_len: int, head_dim: int, dtype: torch.dtype
    ) -> None:
        self.max_len = -(-max_len // PAGE_TOKENS) * PAGE_TOKENS
        self.rows = rows
        shape = (rows, kv_heads, self.max_len, head_dim)
        self._row_bytes = kv_heads * self.max_len * head_dim * dtype.itemsize
        private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS  # shared pages would outlive madvise
        self._maps = [mmap.mmap(-1, rows * self._row_bytes, flags=private) for _ in range(2 * layers)]
        arenas = [torch.frombuffer(block, dtype=dtype).view(shape) for block in self._maps]
        self.keys: list[Tensor] = arenas[:layers]
        self.values: list[Tensor] = arenas[layers:]
        self._row_of: dict[int, int] = {}
        self._owner: list[int] = []
        self._filled: dict[int, int] = {}

    def layer(self, index: int) -> LayerCache:
        """The arenas of one layer."""
        return LayerCache(self.keys[index], self.values[index])

    def row(self, sequence_id: int) -> int:
        """The row of a sequence, taken now if it has none. Raises ValueError when all rows are taken."""
        found = self._row_of.get(sequence_id)
        if found is not None:
            return found
        if len(self._owner) == self.rows:
            raise ValueError(f"all {self.rows} rows hold a sequence; release one first")
        self._row_of[sequence_id] = len(self._owner)
        self._owner.append(sequence_id)
        return len(self._owner) - 1

    def filled(self, sequence_id: int, tokens: int) -> None:
        """Remember how many tokens of the row are written, which is what moving it must copy."""
        self._filled[sequence_id] = tokens

    def release(self, sequence_id: int) -> None:
        """Forget a sequence: the last row moves into its place and the last row's memory is handed back."""
        hole = self._row_of.pop(sequence_id, None)
        self._filled.pop(sequence_id, None)
        if hole is None:
            return
        last = len(self._owner) - 1
        mover = self._owner.pop()
        if hole != last:
            self._copy(last, hole, self._filled.get(mover, 0))
            self._owner[hole] = mover
            self._row_of[mover] = hole
        for block in self._maps:
            block.madvise(mmap.MADV_DONTNEED, last * self._row_bytes, self._row_bytes)

    def copy_prefix(self, source_id: int, target_id: int, tokens: int) -> None:
        """Give the target's row a copy of the source's first `tokens` tokens."""
        self._copy(self._row_of[source_id], self.row(target_id), tokens)
        self.filled(target_id, tokens)

    def held(self) -> Iterable[int]:
        """The sequences that hold a row."""
        return tuple(self._owner)

    def _copy(self, source: int, target: int, tokens: int) -> None:
        for arena in (*self.keys, *self.values):
            arena[target, :, :tokens] = arena[source, :, :tokens]
