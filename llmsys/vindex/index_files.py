"""The directory of an index: a head that names one snapshot and its log, the log, and the writer's lock.

Every change of the head is one rename, so a kill leaves the old index or the new one. Knows nothing of searching.
"""

import fcntl
import os
import shutil
import time
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

import msgspec
import numpy as np

from llmsys.artifacts import decode_record, read_npy, replace_file, sync_directory, write_npy
from llmsys.errors import BadInput
from llmsys.vindex.arrays import I32
from llmsys.vindex.faults import Corrupt, Locked
from llmsys.vindex.operations import decode
from llmsys.vindex.snapshot import read_snapshot, write_snapshot
from llmsys.vindex.state import State
from llmsys.vindex.wal import Log, scan_log

__all__ = [
    "Head",
    "PlanRecord",
    "create",
    "follow",
    "lock",
    "open_log",
    "read_head",
    "read_state",
    "remove_strays",
    "replace",
    "write_head",
]

HEAD = "manifest.json"
LOCK = "lock"
VERSION = 1
SHRED = ".shred"
TRIES = 5
LOOK_EVERY_S = 0.02


class PlanRecord(msgspec.Struct, frozen=True):
    """What `tune` measured for tenants of `from_size` vectors and more: recall@k and its lower 95 % limit.

    width 0 is the exact scan.
    """

    recall: float
    k: int
    from_size: int
    width: int
    patience: int
    measured: float
    lower_limit: float
    queries: int


class Head(msgspec.Struct, frozen=True):
    """What `manifest.json` says: which snapshot and log are the index, and what was measured on it."""

    kind: str
    version: int
    generation: int
    plans: tuple[PlanRecord, ...] = ()
    checksum: str = ""

    @property
    def snapshot(self) -> str:
        """Name of the snapshot's directory."""
        return f"snap-{self.generation}"

    @property
    def log(self) -> str:
        """Name of the log."""
        return f"wal-{self.generation}.log"


def create(path: Path, state: State) -> None:
    """Write a new index into a directory, which is made unless it is there and empty."""
    path.mkdir(parents=True, exist_ok=True)
    if any(path.iterdir()):
        raise FileExistsError(17, "is there already", str(path))
    replace(path, Head("vindex", VERSION, 0), state)


def replace(path: Path, old: Head, state: State, *, shred: I32 | None = None) -> Head:
    """Make a compacted state the index, under the lock. Plans stay; the old files go once the new head stands.

    shred: slots whose vectors are overwritten in the old files, and the old log with them, before those go. A kill
    between leaves a note, by which the next writer does it.
    """
    head = Head("vindex", VERSION, old.generation + 1, old.plans)
    remove_strays(path, old)
    write_snapshot(path / head.snapshot, state)
    (path / head.log).touch()
    if shred is not None:
        write_npy(path / f"{old.snapshot}{SHRED}", shred)
    write_head(path, head)
    remove_strays(path, head)
    return head


def read_head(path: Path) -> Head:
    """The head of an index. Raises BadInput where there is none, Corrupt where it is damaged."""
    where = path / HEAD
    try:
        text = where.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        if not path.exists():
            raise FileNotFoundError(2, "No such file or directory", str(path)) from error
        raise BadInput(str(path), f"no {HEAD}", "a directory that `vindex build` wrote") from error
    head = decode_record(text, msgspec.json.Decoder(Head), str(where))
    if head.kind != "vindex" or head.version != VERSION:
        raise BadInput(str(where), f"{head.kind!r} version {head.version}", f"'vindex' version {VERSION}")
    if head.checksum != _checksum(head):
        raise Corrupt(str(where), "its checksum does not hold", "what llmsys wrote")
    return head


def write_head(path: Path, head: Head) -> None:
    """Put the head in place by rename."""
    sealed = msgspec.structs.replace(head, checksum=_checksum(head))
    with replace_file(path / HEAD) as stream:
        stream.write(msgspec.json.format(msgspec.json.encode(sealed), indent=2) + b"\n")
    sync_directory(path)


def read_state(path: Path, *, verify: bool) -> tuple[Head, State, int, int]:
    """Head, state after the log, good bytes of the log, torn bytes behind them.

    A writer may replace the files between two of our looks: then we look again. Raises BadInput and Corrupt.
    """
    for last in range(TRIES - 1, -1, -1):
        head = read_head(path)
        try:
            state = read_snapshot(path / head.snapshot, verify=verify)
            scan = scan_log(path / head.log, state.seq)
        except (FileNotFoundError, BadInput) as error:
            if last and read_head(path) != head:
                continue
            if isinstance(error, FileNotFoundError):
                raise Corrupt(str(error.filename), "missing", "what the manifest names") from error
            raise
        for record in scan.records:
            _replay(state, record.kind, record.payload, f"{path / head.log}: offset {record.offset}")
        return head, state, scan.good_bytes, scan.torn_bytes
    raise Corrupt(str(path), "it changes faster than it can be read", "fewer compactions a second")


def follow(path: Path, head: Head, state: State, good: int) -> int:
    """Apply what was logged behind the `good` bytes of an unchanged head's log; the good bytes now."""
    log = path / head.log
    if log.stat().st_size == good:
        return good
    scan = scan_log(log, state.seq, good)
    for record in scan.records:
        _replay(state, record.kind, record.payload, f"{log}: offset {good + record.offset}")
    return good + scan.good_bytes


def lock(path: Path, wait_s: float = 0) -> int:
    """Take the writer's lock, a file that names its owner; a dead owner's lock is free.

    Raises Locked once another process has held it for `wait_s`.
    """
    descriptor = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    until = time.monotonic() + wait_s
    while not _locked(descriptor):
        if time.monotonic() >= until:
            owner = os.pread(descriptor, 64, 0).decode("ascii", "replace").strip()
            os.close(descriptor)
            right = "wait until it has ended, or --wait SECONDS"
            raise Locked(f"{path}: process {owner or 'unknown'} is writing", right)
        time.sleep(LOOK_EVERY_S)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)
    return descriptor


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def remove_strays(path: Path, head: Head) -> None:
    """Remove snapshots, logs and unfinished files that the head does not name; the caller holds the lock."""
    for note in path.glob(f"snap-*{SHRED}"):
        if note.name != f"{head.snapshot}{SHRED}":
            _overwrite(path, note)
    for entry in path.iterdir():
        named = entry.name in (HEAD, LOCK, head.snapshot, head.log)
        if named or not entry.name.lstrip(".").startswith(("snap-", "wal-", HEAD)):
            continue
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            with suppress(FileNotFoundError):
                entry.unlink()


def _overwrite(path: Path, note: Path) -> None:
    """Write zeros over the vectors that a note lists, in the snapshot that it names, and over that one's log."""
    slots, snapshot = read_npy(note), path / note.name.removesuffix(SHRED)
    for name in ("vectors", "codes"):
        with suppress(FileNotFoundError):
            rows = np.load(snapshot / f"{name}.npy", mmap_mode="r+")
            rows[slots[slots < len(rows)]] = 0
            rows.flush()
    with suppress(FileNotFoundError), (path / f"wal-{snapshot.name.removeprefix('snap-')}.log").open("r+b") as log:
        log.write(bytes(os.fstat(log.fileno()).st_size))
        log.flush()
        os.fsync(log.fileno())


def open_log(path: Path, head: Head, size: int) -> Log:
    """The log of an index, ready for records behind its good bytes."""
    return Log(path / head.log, size)


def _replay(state: State, kind: int, payload: bytes, where: str) -> None:
    try:
        state.apply(decode(kind, payload, where))
    except (KeyError, ValueError, AssertionError) as error:
        raise Corrupt(where, "an operation that does not fit what came before", "what llmsys wrote") from error


def _checksum(head: Head) -> str:
    bare = msgspec.structs.replace(head, checksum="")
    return blake2b(msgspec.json.encode(bare), digest_size=16).hexdigest()
