"""The host tier of adapters: checked files kept in memory, so that the engine's thread need not wait for a disk.

Read in a thread of its own before a request goes to the engine; what was used longest ago goes when the memory is
full. A file that has changed is read again. Knows nothing of names, slots or requests.
"""

from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from llmsys.engine.adapter_files import AdapterFile
from llmsys.serve_lora.adapter_files import CONFIG_FILE, WEIGHTS_FILE

__all__ = ["AdapterShelf", "Signature", "signature"]

MISSING = (0, 0, 0)
FLOAT_BYTES = 4
Signature = tuple[tuple[int, int, int], tuple[int, int, int]]


@dataclass(frozen=True, slots=True)
class _Kept:
    """A checked file and the signature that it was read under."""

    signature: Signature
    file: AdapterFile

    @property
    def bytes(self) -> int:
        return self.file.parameters * FLOAT_BYTES


class AdapterShelf:
    """Adapters by path, `limit_bytes` of them at most beside the one read last; safe in any thread.

    read: reads and checks a directory. reads: how often it was called; late_reads: those that the engine's thread had
    to wait for.
    """

    def __init__(self, read: Callable[[Path], AdapterFile], *, limit_bytes: int) -> None:
        self.reads = 0
        self.late_reads = 0
        self._read = read
        self._limit_bytes = limit_bytes
        self._kept: OrderedDict[Path, _Kept] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()
        # one thread, so that loads delay each other and not the engine's steps
        self._reader = ThreadPoolExecutor(1, "llmsys-adapters")

    def bring(self, path: Path) -> "Future[AdapterFile]":
        """Read an adapter in the shelf's thread unless it is here; the result may raise AdapterError."""
        return self._reader.submit(self._get, path)

    def holds(self, path: Path) -> bool:
        """Whether an adapter is here as its files are now; then it counts as used."""
        return self._find(path, signature(path)) is not None

    def get(self, path: Path) -> AdapterFile:
        """An adapter for the engine's thread. Raises AdapterError for one that is neither here nor fits."""
        self.late_reads += not self.holds(path)
        return self._get(path)

    def tier(self, path: Path) -> str:
        """host for an adapter in memory, disk for another."""
        return "host" if path in self._kept else "disk"

    def close(self) -> None:
        """Let go of the thread."""
        self._reader.shutdown(wait=False, cancel_futures=True)

    def _get(self, path: Path) -> AdapterFile:
        now = signature(path)
        if (kept := self._find(path, now)) is not None:
            return kept.file
        self.reads += 1
        file = self._read(path)
        if now == signature(path):  # else it changed while it was read, and the next reader looks again
            self._keep(path, _Kept(now, file))
        return file

    def _find(self, path: Path, now: Signature) -> _Kept | None:
        with self._lock:
            kept = self._kept.get(path)
            if kept is None or kept.signature != now:
                return None
            self._kept.move_to_end(path)
            return kept

    def _keep(self, path: Path, kept: _Kept) -> None:
        with self._lock:
            if (before := self._kept.pop(path, None)) is not None:
                self._bytes -= before.bytes
            self._kept[path] = kept
            self._bytes += kept.bytes
            while self._bytes > self._limit_bytes and len(self._kept) > 1:
                self._bytes -= self._kept.popitem(last=False)[1].bytes


def signature(path: Path) -> Signature:
    """What changes when an adapter's files do: inode, size and time of change of each; zeros for a missing one."""
    return _facts(path / CONFIG_FILE), _facts(path / WEIGHTS_FILE)


def _facts(file: Path) -> tuple[int, int, int]:
    """Inode, size and time of change of a file, or MISSING."""
    try:
        found = file.stat()
    except OSError:
        return MISSING
    return found.st_ino, found.st_size, found.st_mtime_ns
