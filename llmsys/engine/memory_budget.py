"""One budget for keys, values and adapters: an adapter's bytes are taken out of the blocks (S-LoRA's unified memory).

The longest sequence always fits beside all adapters, so whoever runs alone can end; what runs alone waits for nobody.
Knows nothing of requests or of what an adapter is.
"""

from collections.abc import Callable

from llmsys.engine.block_manager import BlockManager
from llmsys.engine.errors import RequestError

__all__ = ["MemoryBudget"]


class MemoryBudget:
    """Blocks of `block_bytes` that are lent to adapters.

    give_way: frees memory that stands idle; False where there is none, or others run, whom an adapter waits for.
    """

    def __init__(self, blocks: BlockManager, give_way: Callable[[], bool], *, block_bytes: int) -> None:
        self._blocks = blocks
        self._give_way = give_way
        self._block_bytes = block_bytes
        self._most = blocks.counts.total

    def keep(self, longest_tokens: int, *, beside_bytes: int) -> int:
        """Never lend what the longest sequence needs; return its tokens, fewer if an adapter must fit beside it.

        beside_bytes: of the largest adapter. Raises RequestError if not even two tokens fit beside it.
        """
        total, each = self._blocks.counts.total, self._blocks.block_tokens
        tokens = min(longest_tokens, (total - self._count(beside_bytes)) * each)
        if tokens < 2:
            least = (self._count(beside_bytes) + 1) * self._block_bytes
            raise RequestError(f"memory_bytes is {total * self._block_bytes}; expected {least} or more")
        self._most = total - -(-tokens // each)
        return tokens

    def take(self, wanted_bytes: int) -> bool:
        """Take memory out of the blocks; False, and no change but to what was idle, where there is no room."""
        count = self._count(wanted_bytes)
        if self._blocks.counts.lent + count > self._most:
            return False
        while not self._blocks.lend(count):
            if not self._give_way():
                return False
        return True

    def give_back(self, taken_bytes: int) -> None:
        """Return what one `take` took."""
        self._blocks.take_back(self._count(taken_bytes))

    def _count(self, wanted_bytes: int) -> int:
        return -(-wanted_bytes // self._block_bytes)
