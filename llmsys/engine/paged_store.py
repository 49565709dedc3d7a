"""Where keys and values live on a GPU: pages of a few tokens, a table of pages per sequence, full pages shared.

A page that several sequences share is never written: whoever must write to it gets a copy first. Knows nothing of
attention or scheduling.
"""

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["PagedKV"]


class PagedKV:
    """[pages + 1, 2, kv_heads, page_tokens, head_dim] per layer (keys, values), and who holds which page."""

    def __init__(
        self,
        *,
        layers: int,
        pages: int,
        kv_heads: int,
        page_tokens: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.page_tokens = page_tokens
        self.device = device
        self.spare_page = pages
        """A page that no sequence ever holds: where rows that fill up a step write."""
        shape = (pages + 1, 2, kv_heads, page_tokens, head_dim)
        self.layers: list[Tensor] = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(layers)]
        self._free = list(range(pages - 1, -1, -1))
        self._tables: dict[int, list[int]] = {}
        self._holders: Counter[int] = Counter()

    @property
    def free_pages(self) -> int:
        """Pages that no sequence holds."""
        return len(self._free)

    def table(self, sequence_id: int) -> Sequence[int]:
        """The sequence's pages in order of its tokens; empty for a sequence that has none."""
        return self._tables.get(sequence_id, ())

    def prepare(self, sequence_id: int, start: int, end: int) -> None:
        """Make tokens start..end of a sequence writable: pages for all up to `end`, those written to its own alone.

        Raises ValueError when no page is left.
        """
        table = self._tables.setdefault(sequence_id, [])
        for index in range(start // self.page_tokens, min(len(table), -(-end // self.page_tokens))):
            page = table[index]
            if self._holders[page] > 1:
                table[index] = self._copy(page)
                self._let_go(page)
        while len(table) * self.page_tokens < end:
            table.append(self._take())

    def release(self, sequence_id: int) -> None:
        """Give back the pages that nobody else holds; unknown sequences are ignored."""
        for page in self._tables.pop(sequence_id, ()):
            self._let_go(page)

    def copy_prefix(self, source_id: int, target_id: int, tokens: int) -> None:
        """Give the target the source's first tokens: full pages are shared, the rest of the last one is copied."""
        full = tokens // self.page_tokens
        source = self._tables[source_id]
        rest = [self._copy(source[full])] if tokens % self.page_tokens else []
        self._holders.update(source[:full])
        self.release(target_id)
        self._tables[target_id] = source[:full] + rest

    def _take(self) -> int:
        if not self._free:
            raise ValueError("every page of keys and values is held; release a sequence first")
        page = self._free.pop()
        self._holders[page] = 1
        return page

    def _copy(self, page: int) -> int:
        """A page of one's own with the same contents."""
        own = self._take()
        for layer in self.layers:
            layer[own] = layer[page]
        return own

    def _let_go(self, page: int) -> None:
        self._holders[page] -= 1
        if not self._holders[page]:
            del self._holders[page]
            self._free.append(page)
