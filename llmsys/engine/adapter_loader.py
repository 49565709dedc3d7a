"""Adapters read in a thread of its own, so that no step waits for a disk.

What is ready waits to be taken; of what nobody takes, the oldest is forgotten. Knows nothing of names or slots.
"""

from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from llmsys.engine.adapter_files import AdapterFile

__all__ = ["AdapterLoader"]

AHEAD = 4
"""Adapters that are read, or being read, and not taken yet: bounds the memory beside the resident ones."""


class AdapterLoader:
    """Reads one adapter at a time with `read`; belongs to one thread, which never waits in `is_ready`."""

    def __init__(self, read: Callable[[Path], AdapterFile]) -> None:
        self._read = read
        self._coming: OrderedDict[int, Future[AdapterFile]] = OrderedDict()
        self._thread = ThreadPoolExecutor(1, "llmsys-adapter-loader")

    def is_ready(self, number: int, path: Path) -> bool:
        """Whether `take` would return, or raise, at once; if not, reading has begun. number: of this generation."""
        if number not in self._coming:
            self._coming[number] = self._thread.submit(self._read, path)
            while len(self._coming) > AHEAD:
                self._coming.popitem(last=False)[1].cancel()
        return self._coming[number].done()

    def take(self, number: int, path: Path) -> AdapterFile:
        """The adapter, waiting for it where it is not ready. Raises what reading it raised; then it is read anew."""
        coming = self._coming.pop(number, None)
        return self._read(path) if coming is None else coming.result()
