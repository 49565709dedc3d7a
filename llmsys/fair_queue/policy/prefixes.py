"""Which blocks of prompts a server is likely to hold: the most recent ones, by the ids that prompts start with.

A guess from what was admitted, for policies that look at locality; the server knows better and may say so.
"""

from collections import OrderedDict
from collections.abc import Iterable

__all__ = ["RecentPrefixes", "matched_tokens"]


def matched_tokens(blocks: int, block_tokens: int, prompt_tokens: int) -> int:
    """Prompt tokens that need no computation where its first `blocks` blocks are known; the last token always does.

    >>> matched_tokens(2, 512, 2000), matched_tokens(2, 512, 1000), matched_tokens(0, 512, 0)
    (1024, 999, 0)
    """
    return max(min(blocks * block_tokens, prompt_tokens - 1), 0)


class RecentPrefixes:
    """The `capacity` blocks that were used last."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._blocks: OrderedDict[int, None] = OrderedDict()

    def match(self, prefix: tuple[int, ...]) -> int:
        """How many leading blocks of `prefix` are here."""
        for count, block in enumerate(prefix):
            if block not in self._blocks:
                return count
        return len(prefix)

    def use(self, prefix: Iterable[int]) -> None:
        """Take the blocks in as the most recent; the first of a prompt outlives the others, which need it."""
        for block in reversed(tuple(prefix)):
            self._blocks[block] = None
            self._blocks.move_to_end(block)
        while len(self._blocks) > self._capacity:
            self._blocks.popitem(last=False)

    def state(self) -> list[int]:
        """The blocks, least recent first."""
        return list(self._blocks)

    def restore(self, blocks: Iterable[int]) -> None:
        """Take over what `state` gave."""
        self._blocks = OrderedDict.fromkeys(blocks)
