"""Repair of a damaged index: what follows from other parts is made anew, and what nobody can know is never guessed.

Codes, leaves and trees follow from the vectors; a lost head follows from the files' names; a torn last record of the
log was never acknowledged. A vector that was damaged is told by its code, up to the code's error, and is dropped. Who
may see what stands in one place only: where that is damaged, or the log before its end, repair refuses and a snapshot
must take its place.
"""

import os
import shutil
from collections.abc import Iterable
from hashlib import blake2b, file_digest
from pathlib import Path

import msgspec
import numpy as np

from llmsys.artifacts import MANIFEST_NAME, Manifest, decode_record, read_npy
from llmsys.errors import BadInput
from llmsys.vindex import index_files
from llmsys.vindex.arrays import F32
from llmsys.vindex.check import faults
from llmsys.vindex.cluster_tree import TreeShape
from llmsys.vindex.codes import encode
from llmsys.vindex.faults import Corrupt
from llmsys.vindex.index_files import Head
from llmsys.vindex.operations import Delete, Grant, Operation, Revoke, decode
from llmsys.vindex.slot_store import Id
from llmsys.vindex.snapshot import DERIVED, Granted, read_granted, read_snapshot
from llmsys.vindex.state import State, build_state, compacted
from llmsys.vindex.wal import scan_log

__all__ = ["Repaired", "repair_index"]

RIGHT = "a copy from `vindex snapshot`, for this has no second place"
DIGEST_BYTES = 32


class Repaired(msgspec.Struct, frozen=True):
    """What was done, in words (nothing for a sound index); the directory with the files as they were; dropped ids."""

    actions: list[str]
    copy: str | None = None
    dropped: list[Id] = []


def repair_index(path: Path) -> Repaired:
    """Put a sound index in place of a damaged one, beside which a copy of the old files stays.

    Raises Corrupt, and changes nothing, where what is damaged cannot be known; Locked where another process writes.
    """
    lock = index_files.lock(path)
    try:
        head, actions = _head(path)
        state, dropped, more = _rebuilt(path, head)
        actions += more
        if not actions:
            return Repaired([])
        left = faults(state)
        if left:
            raise Corrupt(str(path), f"{left[0]} after repair", RIGHT)
        copy = _copied(path)
        index_files.replace(path, head, compacted(state))
        return Repaired(actions, str(copy), dropped)
    finally:
        os.close(lock)


def _head(path: Path) -> tuple[Head, list[str]]:
    """The head, or the one that the names of the files give."""
    try:
        return index_files.read_head(path), []
    except BadInput as error:
        numbers = [int(one.name[5:]) for one in path.glob("snap-*") if one.name[5:].isdigit() and one.is_dir()]
        whole = [number for number in numbers if (path / f"wal-{number}.log").exists()]
        if not whole:
            raise
        return Head("vindex", 1, max(whole)), [f"manifest made anew, without what `tune` measured ({error.wrong})"]


def _rebuilt(path: Path, head: Head) -> tuple[State, list[Id], list[str]]:
    """The state, the ids whose vectors were lost, and what had to be done for it."""
    snapshot, actions = path / head.snapshot, list[str]()
    damaged = _damaged(snapshot)
    for name in sorted(damaged):
        if name.removesuffix(".npy") not in (*DERIVED, "vectors"):
            raise Corrupt(str(snapshot / name), "damaged", RIGHT)
    granted, dropped = read_granted(snapshot), list[int]()
    if "vectors.npy" in damaged:
        dropped = _strangers(snapshot, granted, damaged)
        actions.append(f"{len(dropped)} vectors dropped that do not fit their codes")
    scan = scan_log(path / head.log, granted.names.seq)
    if scan.torn_bytes:
        actions.append(f"{scan.torn_bytes} bytes of an unfinished change cut off the log")
    operations = [
        decode(record.kind, record.payload, f"{path / head.log}: offset {record.offset}") for record in scan.records
    ]
    state = None if damaged else _sound(snapshot, operations)
    if state is None:
        actions.append(f"codes, leaves and trees made anew ({', '.join(sorted(damaged)) or 'broken invariants'})")
        state = _made_anew(granted, dropped)
        for operation in operations:
            state.apply(_within(operation, state))
    return state, [granted.name(slot) for slot in dropped], actions


def _damaged(snapshot: Path) -> set[str]:
    """Files of a snapshot that are missing or not what its manifest says. Raises Corrupt where that cannot be read."""
    where = snapshot / MANIFEST_NAME
    try:
        manifest = decode_record(where.read_bytes(), msgspec.json.Decoder(Manifest), str(where))
    except (BadInput, FileNotFoundError) as error:
        raise Corrupt(str(where), "missing or damaged", RIGHT) from error
    found = set()
    for name, entry in manifest.files.items():
        try:
            with (snapshot / name).open("rb") as stream:
                if file_digest(stream, lambda: blake2b(digest_size=DIGEST_BYTES)).hexdigest() != entry.blake2b:
                    found.add(name)
        except FileNotFoundError:
            found.add(name)
    return found


def _strangers(snapshot: Path, granted: Granted, damaged: Iterable[str]) -> list[int]:
    """Slots whose vectors are no numbers, or not those that were coded."""
    if not {"codes.npy", "mean.npy"}.isdisjoint(damaged):
        raise Corrupt(str(snapshot / "vectors.npy"), "damaged, and their codes too", RIGHT)
    rows, mean = read_npy(snapshot / "codes.npy"), read_npy(snapshot / "mean.npy")
    with np.errstate(all="ignore"):
        vectors: F32 = np.nan_to_num(granted.vectors.astype(np.float32))
        fits = (encode(vectors, mean, granted.names.metric) == rows).all(axis=1)
    fits &= np.isfinite(granted.vectors).all(axis=1)
    lost: list[int] = np.flatnonzero(~fits).tolist()
    return lost


def _sound(snapshot: Path, operations: Iterable[Operation]) -> State | None:
    """The state as it is, if it is sound."""
    try:
        state = read_snapshot(snapshot, verify=False)
        for operation in operations:
            state.apply(operation)
    except (BadInput, KeyError):
        return None
    return None if faults(state) else state


def _made_anew(granted: Granted, dropped: list[int]) -> State:
    """A state of the vectors that are left, under new trees."""
    count = len(granted.vectors)
    access: list[list[str]] = [[] for _ in range(count)]
    for name, slots in granted.lists.items():
        for slot in slots.tolist():
            access[slot].append(name)
    kept = np.setdiff1d(np.arange(count), np.array(dropped, np.int64)).tolist()
    names = granted.names
    state = build_state(
        np.array(granted.vectors[kept]),
        [granted.name(slot) for slot in kept],
        [access[slot] for slot in kept],
        metric=names.metric,
        shape=TreeShape(*names.shape),
        seed=0,
    )
    state.seq = names.seq
    return state


def _within(operation: Operation, state: State) -> Operation:
    """The operation without ids that the state has lost."""
    if isinstance(operation, Delete | Grant | Revoke):
        there = [one for one in operation.ids if one in state.store.slot_of]
        return msgspec.structs.replace(operation, ids=there)
    return operation


def _copied(path: Path) -> Path:
    """A copy of the directory beside it, under a name that is free."""
    number, copy = 1, path.with_name(f"{path.name}.damaged")
    while copy.exists():
        number += 1
        copy = path.with_name(f"{path.name}.damaged-{number}")
    unfinished = path.with_name(f".{path.name}.damaged.tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.copytree(path, unfinished)
    return unfinished.rename(copy)
