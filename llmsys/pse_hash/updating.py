"""A stream of updates made durable: checked, logged, synced, then acknowledged.

Knows neither kernels nor answers. After a kill the log holds a prefix of the stream, at least the acknowledged part.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llmsys.artifacts import read_records
from llmsys.errors import BadInput
from llmsys.pse_hash.building import read_ids, read_points
from llmsys.pse_hash.files import apply_update, lock, open_log, open_sketch, save
from llmsys.pse_hash.wal import Update

__all__ = ["Tally", "Writer", "bulk_updates", "stream_updates"]

BATCH = 256
FOLD_FROM = 10_000


@dataclass(slots=True)
class Tally:
    """What a stream of updates did, and how many points are live after it."""

    applied: int = 0
    inserted: int = 0
    deleted: int = 0
    replaced: int = 0
    skipped: int = 0
    n: int = 0


class Writer:
    """The one writer of a sketch. Use as a context manager; raises Locked where there is another."""

    def __init__(self, path: Path, *, fsync: str) -> None:
        """Open for writing; `fsync` says after what a sync comes: every update, a batch of BATCH, or the end."""
        self._path, self._fsync = path, fsync
        self._lock = lock(path)
        try:
            self._opened = open_sketch(path)
            self._log = open_log(self._opened)
        except BaseException:
            os.close(self._lock)
            raise
        self.tally = Tally(n=self._opened.sketch.count)
        self._pending: list[Update] = []
        self._logged: list[Update] = []

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        """Make durable what was applied, fold a long log into the points, release the lock."""
        try:
            self.flush()
            sketch = self._opened.sketch
            if self._opened.replayed + self.tally.applied > max(FOLD_FROM, sketch.count // 2):
                save(sketch, self._path, overwrite=True)
        finally:
            self._log.close()
            os.close(self._lock)

    def apply(self, update: Update) -> list[Update]:
        """Apply one update; returns those that became durable by it. Raises BadInput for one that does not fit."""
        apply_update(self._opened.sketch, update)
        self._pending.append(update)
        self.tally.applied += 1
        for op, name in (("insert", "inserted"), ("delete", "deleted"), ("replace", "replaced")):
            if update.op == op:
                setattr(self.tally, name, getattr(self.tally, name) + 1)
        self.tally.n = self._opened.sketch.count
        full = {"every": 1, "batch": BATCH, "end": BATCH}[self._fsync]
        return self.flush(sync=self._fsync != "end") if len(self._pending) >= full else []

    def flush(self, *, sync: bool = True) -> list[Update]:
        """Log what is pending; with `sync` it is durable when this returns."""
        self._log.append(self._pending)
        self._logged += self._pending
        self._pending = []
        if not sync:
            return []
        self._log.sync()
        done, self._logged = self._logged, []
        return done


def stream_updates(
    writer: Writer, source: str, *, on_error: str, on_skip: Callable[[BadInput], None]
) -> Iterator[Update]:
    """Apply the lines of a file or stdin; yields each update once it is durable. Raises BadInput at FILE:LINE."""

    def refuse(fault: BadInput) -> None:
        writer.tally.skipped += 1
        on_skip(fault)

    durable: list[Update] = []

    def fault_of(update: Update) -> tuple[str, str] | None:
        fault = update.fault()
        if fault is not None:
            return fault
        try:
            durable.extend(writer.apply(update))
        except BadInput as error:
            return error.wrong, error.right
        return None

    for _ in read_records(source, Update, on_error=on_error, on_skip=refuse, check=fault_of):
        yield from durable
        durable.clear()
    yield from durable
    yield from writer.flush()


def bulk_updates(writer: Writer, source: str, ids: Path | None) -> Iterator[Update]:
    """Insert the vectors of a file under the ids of another; yields each update once it is durable."""
    read = read_points(source)
    for one, row in zip(read_ids(ids, read, source), np.asarray(read.values, np.float64), strict=True):
        yield from writer.apply(Update("insert", one, tuple(row.tolist())))
    yield from writer.flush()
