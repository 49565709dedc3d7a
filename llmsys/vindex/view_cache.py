"""What predicates held for, kept while nothing changes: the least recently used go first, within bounded bytes.

A key names the operation after which it held, so a change makes every older view unreachable. Evaluates nothing.
"""

from collections import OrderedDict

from llmsys.vindex.tenant_list import Run

__all__ = ["ViewCache"]

Key = tuple[str | None, str | None, int]


class ViewCache:
    """Runs by (tenant, predicate, number of the last operation), at most `most_bytes` of them."""

    def __init__(self, most_bytes: int = 64 * 2**20) -> None:
        self._kept: OrderedDict[Key, Run | None] = OrderedDict()
        self._most, self.bytes = most_bytes, 0

    def __contains__(self, key: Key) -> bool:
        return key in self._kept

    def get(self, key: Key) -> Run | None:
        """A run that is kept, which is now the last used."""
        self._kept.move_to_end(key)
        return self._kept[key]

    def keep(self, key: Key, run: Run | None) -> None:
        """Keep a run, drop those of other numbers, and the least recently used until the bytes fit."""
        for stale in [old for old in self._kept if old[2] != key[2]]:
            self.bytes -= _bytes(self._kept.pop(stale))
        self._kept[key] = run
        self.bytes += _bytes(run)
        while self.bytes > self._most and len(self._kept) > 1:
            self.bytes -= _bytes(self._kept.popitem(last=False)[1])


def _bytes(run: Run | None) -> int:
    return 0 if run is None else run.slots.nbytes + run.tail.nbytes + run.records.nbytes
