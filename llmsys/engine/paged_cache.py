"""Attention of one step over pages: the GPU's `KVStore`. Knows nothing of requests.

All new keys and values are written at once; decoding rows attend in one launch of `paged_attention`, a prompt's tokens
to its own pages through torch. Has run on a CPU only, with the kernel under Triton's interpreter: on no GPU yet.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llmsys.engine.attention import attend_prompt
from llmsys.engine.kv_store import Span
from llmsys.engine.ops import Ops
from llmsys.engine.paged_store import PagedKV
from llmsys.engine.rope import RotaryTable
from llmsys.gpu.kernels.paged_attention import paged_attention

__all__ = ["PagedCache", "PagedStep"]


class PagedCache:
    """Keys and values in pages, and how a step attends to them."""

    def __init__(self, store: PagedKV) -> None:
        self._store = store

    def order(self, sequence_id: int) -> int:
        """As the protocol says; pages have no order, so sequences keep theirs."""
        return sequence_id

    def release(self, sequence_id: int) -> None:
        """As the protocol says."""
        self._store.release(sequence_id)

    def copy_prefix(self, source_id: int, target_id: int, tokens: int) -> None:
        """As the protocol says; full pages are shared."""
        self._store.copy_prefix(source_id, target_id, tokens)

    def attend(self, spans: Sequence[Span], table: RotaryTable, ops: Ops) -> "PagedStep":
        """As the protocol says; `ops` decodes rows and is not needed."""
        for span in spans:
            self._store.prepare(span.sequence_id, span.start, span.end)
        return PagedStep(spans, self._store, table)


class PagedStep:
    """One step's attention, layer by layer; writes keys and values to the pages."""

    def __init__(self, spans: Sequence[Span], store: PagedKV, table: RotaryTable) -> None:
        self._store = store
        self._table = table
        positions = [position for span in spans for position in range(span.start, span.end)]
        pages = [
            store.table(span.sequence_id)[position // store.page_tokens]
            for span in spans
            for position in range(span.start, span.end)
        ]
        where = torch.tensor([positions, pages], dtype=torch.int64, device=store.device)
        self._pages, self._offsets = where[1], where[0] % store.page_tokens
        self._angles = table.at(where[0])
        self._prompts = [(span, self._held(span)) for span in spans if not span.decodes]
        self._decodes = _Decodes.of([span for span in spans if span.decodes], store)

    def __call__(self, layer: int, qk: Tensor, v: Tensor) -> Tensor:
        """Mix values for every token.

        Shapes: qk [T, heads + kv_heads, D] not yet rotated, v [T, kv_heads, D]; returns [T, heads * D] in qk's dtype.
        """
        cache = self._store.layers[layer]
        heads, dim = qk.shape[1] - cache.shape[2], qk.shape[2]
        rotated = self._table.rotate(qk, *self._angles)
        cache[self._pages, 0, :, self._offsets] = rotated[:, heads:]
        cache[self._pages, 1, :, self._offsets] = v
        mixed = torch.empty(qk.shape[0], heads * dim, dtype=qk.dtype, device=qk.device)
        for span, pages in self._prompts:
            here = slice(span.first, span.first + span.count)
            keys, values = cache[pages].permute(1, 2, 0, 3, 4).flatten(2, 3)[:, :, : span.end]
            mixed[here] = attend_prompt(rotated[here, :heads], keys, values, start=span.start)
        if self._decodes is not None:
            rows = self._decodes
            out = paged_attention(
                rotated[rows.tokens, :heads], cache, rows.tables, rows.contexts, scale=dim**-0.5, longest=rows.longest
            )
            mixed[rows.tokens] = out.flatten(1)
        return mixed

    def _held(self, span: Span) -> Tensor:
        """The pages of a sequence that hold something after the step."""
        count = -(-span.end // self._store.page_tokens)
        pages = self._store.table(span.sequence_id)[:count]
        return torch.tensor(pages, dtype=torch.int64, device=self._store.device)


@dataclass(frozen=True, slots=True)
class _Decodes:
    """What the kernel is told of n decoding rows: tokens [n] of the batch, tables [n, pages], contexts [n]."""

    tokens: Tensor
    tables: Tensor
    contexts: Tensor
    longest: int

    @classmethod
    def of(cls, spans: Sequence[Span], store: PagedKV) -> "_Decodes | None":
        if not spans:
            return None
        longest = max(span.end for span in spans)
        width = -(-longest // store.page_tokens)
        tables = [list(store.table(span.sequence_id)[:width]) for span in spans]
        square = [table + [0] * (width - len(table)) for table in tables]
        return cls(
            torch.tensor([span.first for span in spans], device=store.device),
            torch.tensor(square, dtype=torch.int32, device=store.device),
            torch.tensor([span.end for span in spans], dtype=torch.int32, device=store.device),
            longest,
        )
