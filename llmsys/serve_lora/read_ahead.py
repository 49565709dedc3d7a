"""Read a slow source in a thread, so that what is running does not wait for what has not arrived.

Knows nothing of what it reads. A bounded queue: a fast source waits too.
"""

import queue
import threading
from collections.abc import Iterable
from typing import Generic, TypeVar

__all__ = ["ReadAhead"]

T = TypeVar("T")


class _End:
    """The source is at its end, or failed with an error."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class ReadAhead(Generic[T]):
    """Items of a source in order, as they come; an error of the source is raised after the items before it."""

    def __init__(self, source: Iterable[T], *, depth: int) -> None:
        self._queue: queue.Queue[T | _End] = queue.Queue(depth)
        self._end: _End | None = None
        # a daemon: a source that blocks for ever must not keep the process from ending
        threading.Thread(target=self._read, args=(source,), daemon=True).start()

    def take(self, *, wait: bool) -> T | None:
        """The next item, or None: nothing there yet (with `wait` False), or the end.

        Raises the source's error once the items before it are taken.
        """
        if self._end is not None:
            return None
        try:
            item = self._queue.get(block=wait)
        except queue.Empty:
            return None
        if not isinstance(item, _End):
            return item
        self._end = item
        return None

    @property
    def ended(self) -> bool:
        """Whether every item was taken."""
        return self._end is not None

    @property
    def error(self) -> BaseException | None:
        """What the source failed with, once every item before it was taken."""
        return self._end.error if self._end is not None else None

    def _read(self, source: Iterable[T]) -> None:
        try:
            for item in source:
                self._queue.put(item)
        except BaseException as error:
            self._queue.put(_End(error))
        else:
            self._queue.put(_End(None))
