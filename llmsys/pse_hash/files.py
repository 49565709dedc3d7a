"""A sketch as a directory: points, weights, ids and settings under a manifest, a log of updates, the writer's lock.

The manifest and its files are written whole, by rename; later updates stand in `wal.jsonl` until `save` folds them in.
Knows no estimator.
"""

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np

from llmsys.artifacts import open_directory, read_npy, replace_file, write_directory, write_npy
from llmsys.errors import BadInput
from llmsys.pse_hash.arrays import Numbers
from llmsys.pse_hash.faults import Corrupt, Locked
from llmsys.pse_hash.settings import Settings
from llmsys.pse_hash.sketch import PairwiseSum
from llmsys.pse_hash.wal import Log, Update, read_log

__all__ = ["Opened", "apply_update", "lock", "open_log", "open_sketch", "remember", "remembered", "save", "spend"]

KIND, VERSION = "pse-sketch", 1
WAL, LOCK, SPENT = "wal.jsonl", "lock", "spent.json"
CHECKED = "checked.json"
UNLISTED = (WAL, LOCK, SPENT, CHECKED)

T = TypeVar("T")


@dataclass(slots=True)
class Opened:
    """A sketch at its last durable state: its log's good bytes, those of a torn last line, and the updates replayed."""

    sketch: PairwiseSum
    path: Path
    log_bytes: int
    torn_bytes: int
    replayed: int
    stamp: tuple[int, int]

    def moved(self) -> bool:
        """Whether the sketch on disk has changed since it was opened."""
        return _stamp(self.path) != self.stamp


def save(sketch: PairwiseSum, path: Path, *, overwrite: bool = False) -> None:
    """Write the live points as a directory that appears whole or not at all. Raises FileExistsError as it does."""
    points = sketch.points
    slots = points.live_slots()
    with write_directory(path, kind=KIND, version=VERSION, overwrite=overwrite, unlisted=UNLISTED) as place:
        write_npy(place / "points.npy", points.values[slots])
        write_npy(place / "weights.npy", points.weights[slots])
        write_npy(place / "centre.npy", points.centre)
        (place / "ids.json").write_bytes(msgspec.json.encode([points.ids[slot] for slot in slots.tolist()]))
        (place / "settings.json").write_bytes(msgspec.json.encode(sketch.settings))
        if sketch.asked:
            (place / SPENT).write_bytes(msgspec.json.encode(sketch.asked))


def open_sketch(path: Path, *, verify: bool = False) -> Opened:
    """Open a sketch and replay its log; `verify` reads everything against the checksums.

    Raises BadInput or Corrupt that names the file at fault.
    """
    stamp = _stamp(path)
    open_directory(path, kind=KIND, version=VERSION, verify=verify, unlisted=UNLISTED)
    settings = _decoded(path / "settings.json", Settings)
    values, weights, centre = (_array(path, name) for name in ("points", "weights", "centre"))
    ids = _decoded(path / "ids.json", list[str])
    fits = values.ndim == 2 and len(values) == len(weights) == len(ids) and centre.shape == values.shape[1:]
    if not fits:
        raise Corrupt(str(path / "points.npy"), "arrays that do not fit each other", "what llmsys wrote")
    sketch = PairwiseSum.build(np.zeros((0, values.shape[1])), settings, capacity=len(values))
    sketch.points.centre = np.zeros(values.shape[1])
    sketch.points.insert(ids, values, np.asarray(weights, np.float64))
    sketch.points.centre = np.asarray(centre, np.float64)
    updates, good, torn = read_log(path / WAL)
    for number, update in enumerate(updates, start=1):
        try:
            apply_update(sketch, update)
        except BadInput as error:
            raise Corrupt(f"{path / WAL}:{number}", error.wrong, "an update that fits what came before") from error
    if (path / SPENT).exists():
        sketch.asked = _decoded(path / SPENT, int)
    return Opened(sketch, path, good, torn, len(updates), stamp)


def apply_update(sketch: PairwiseSum, update: Update) -> None:
    """Apply one update. Raises UnknownId, DuplicateId or DimensionMismatch before anything changes."""
    if update.op == "delete":
        sketch.delete([update.id])
        return
    x = np.array([update.x], np.float64)
    weights = None if update.w is None else np.array([update.w])
    (sketch.insert if update.op == "insert" else sketch.replace)([update.id], x, weights)


def lock(path: Path) -> int:
    """Take the writer's lock, a file that names its owner; a dead owner's lock is free. Raises Locked."""
    descriptor = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        owner = os.pread(descriptor, 64, 0).decode("ascii", "replace").strip()
        os.close(descriptor)
        raise Locked(f"{path}: process {owner or 'unknown'} is writing; wait until it has ended") from error
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)
    return descriptor


def spend(path: Path, asked: int) -> None:
    """Make durable how many answers the dp mode has given, before they are given."""
    with replace_file(path / SPENT) as stream:
        stream.write(msgspec.json.encode(asked))


def remember(path: Path, checked: dict[str, int | float | bool]) -> None:
    """Keep the figures of the last check beside the sketch."""
    with replace_file(path / CHECKED) as stream:
        stream.write(msgspec.json.encode(checked))


def remembered(path: Path) -> dict[str, int | float | bool]:
    """The figures of the last check, empty before the first one."""
    return _decoded(path / CHECKED, dict[str, int | float | bool]) if (path / CHECKED).exists() else {}


def open_log(opened: Opened) -> Log:
    """The sketch's log, ready for updates behind its good lines; the caller holds the lock."""
    return Log(opened.path / WAL, opened.log_bytes)


def _stamp(path: Path) -> tuple[int, int]:
    """Inode of the manifest and size of the log: what changes with every durable change."""
    try:
        manifest = (path / "manifest.json").stat().st_ino
    except FileNotFoundError:
        manifest = -1
    log = path / WAL
    return manifest, log.stat().st_size if log.exists() else 0


def _array(path: Path, name: str) -> Numbers:
    array = read_npy(path / f"{name}.npy")
    if array.dtype.kind != "f" or not np.isfinite(array).all():
        raise Corrupt(str(path / f"{name}.npy"), "not finite numbers", "what llmsys wrote")
    return array.view(np.ndarray)


def _decoded(path: Path, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Corrupt(str(path), str(error), "what llmsys wrote") from error
