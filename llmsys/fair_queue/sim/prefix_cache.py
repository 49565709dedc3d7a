"""A server's cache of prompt blocks: pinned while requests use them, then kept in unused memory, oldest out first.

A block counts `block_tokens` tokens. Requests reserve memory for all their tokens as if nothing were shared, so the
cache takes only what they leave: that is less than a server with shared blocks has, never more.
"""

from collections import Counter, OrderedDict

from llmsys.fair_queue.policy import matched_tokens

__all__ = ["PrefixCache"]


class PrefixCache:
    """Blocks by id. A request pins its leading blocks with `start` and `computed`, and lets go with `release`."""

    def __init__(self, block_tokens: int) -> None:
        self._block_tokens = block_tokens
        self._pinned: Counter[int] = Counter()
        self._idle: OrderedDict[int, None] = OrderedDict()

    def match(self, prefix: tuple[int, ...], prompt_tokens: int) -> int:
        """Tokens of the prompt that are here already."""
        return matched_tokens(self._leading(prefix), self._block_tokens, prompt_tokens)

    def start(self, prefix: tuple[int, ...]) -> int:
        """Pin the leading blocks that are here; returns how many."""
        count = self._leading(prefix)
        self._pin(prefix[:count])
        return count

    def computed(self, prefix: tuple[int, ...], pinned: int) -> int:
        """Take in and pin the blocks after the first `pinned`; returns how many are pinned now."""
        self._pin(prefix[pinned:])
        return len(prefix)

    def release(self, prefix: tuple[int, ...], pinned: int) -> None:
        """Let go of the first `pinned` blocks, the last of them first: it is the first to be evicted."""
        for block in reversed(prefix[:pinned]):
            self._pinned[block] -= 1
            if not self._pinned[block]:
                del self._pinned[block]
                self._idle[block] = None

    def trim(self, free_tokens: int) -> None:
        """Evict idle blocks, least recent first, until they fit into `free_tokens`."""
        while self._idle and len(self._idle) * self._block_tokens > free_tokens:
            self._idle.popitem(last=False)

    def _leading(self, prefix: tuple[int, ...]) -> int:
        for count, block in enumerate(prefix):
            if block not in self._pinned and block not in self._idle:
                return count
        return len(prefix)

    def _pin(self, blocks: tuple[int, ...]) -> None:
        for block in blocks:
            self._idle.pop(block, None)
            self._pinned[block] += 1
