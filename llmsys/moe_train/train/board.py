"""A key-value store in a directory: where the members of an epoch leave their addresses for each other.

In place of torch's TCPStore, whose every connection asks a name server for the name of 127.0.0.1 (5 s where it does not
answer), and FileStore, whose waits nothing interrupts. One machine; keys are set once. Knows no process group.
"""

import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from hashlib import blake2b
from pathlib import Path

from torch._C._distributed_c10d import Store

__all__ = ["Board"]

POLL_S = 0.001


class Board(Store):
    """The store of one epoch, as gloo calls it. `close` ends every wait with RuntimeError, from any thread."""

    def __init__(self, directory: Path, *, timeout_s: float) -> None:
        super().__init__()
        self._directory = directory
        self._timeout_s = timeout_s
        self._closed = threading.Event()
        directory.mkdir(parents=True, exist_ok=True)

    def close(self) -> None:
        """End every wait, now and later."""
        self._closed.set()

    def set(self, key: str, value: str | bytes) -> None:
        """Leave a value; it appears whole."""
        path = self._path(key)
        fresh = path.with_suffix(".new")  # one member sets a key, and nothing here outlives the run: no fsync
        fresh.write_bytes(value.encode() if isinstance(value, str) else value)
        fresh.replace(path)

    def get(self, key: str) -> bytes:
        """Wait for a value. Raises RuntimeError at the time limit or once closed."""
        self.wait([key])
        return self._path(key).read_bytes()

    def check(self, keys: Sequence[str]) -> bool:
        """Whether all keys have been set."""
        return all(self._path(key).exists() for key in keys)

    def wait(self, keys: Sequence[str], timeout: timedelta | None = None) -> None:
        """Wait for all keys. Raises RuntimeError at the time limit or once closed."""
        limit = time.monotonic() + (self._timeout_s if timeout is None else timeout.total_seconds())
        while not self.check(keys):
            if self._closed.wait(POLL_S) or time.monotonic() > limit:
                raise RuntimeError(f"no {', '.join(keys)} in {self._directory}")

    def _path(self, key: str) -> Path:
        return self._directory / blake2b(key.encode(), digest_size=16).hexdigest()
