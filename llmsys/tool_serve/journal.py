"""What staged calls have begun and not yet ended, on disk: a process that is killed leaves it for the next one.

One file per process, locked while the process lives, one JSON line per change, synced before the tool goes on. Knows
no tool: `recovery.py` rolls back what is found here.
"""

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec

from llmsys.artifacts import encode
from llmsys.errors import LlmsysError

__all__ = ["Journal", "Leftover", "leftovers"]

SUFFIX = ".journal"
_DECODER: "msgspec.json.Decoder[_Line]"


class _Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """One change: what `state` a call came to. memory: what rollback needs."""

    key: int
    state: Literal["begun", "memory", "committed", "rolled_back"]
    tool: str = ""
    request: str = ""
    tenant: str = ""
    call: str = ""
    memory: dict[str, str] = {}


_DECODER = msgspec.json.Decoder(_Line)


class Leftover(msgspec.Struct, frozen=True):
    """A staged call that neither was committed nor rolled back when its process died."""

    key: int
    tool: str
    request: str
    tenant: str
    call: str
    memory: dict[str, str]


class Journal:
    """This process's file in `directory`; made with its first line, removed by `close` when all calls have ended."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._descriptor = -1
        self._path = directory
        self._open: set[int] = set()
        self._last = 0

    def begin(self, *, tool: str, request: str, tenant: str, call: str) -> int:
        """Write that a staged call begins; the key of its later lines."""
        self._last += 1
        self._open.add(self._last)
        self._write(_Line(self._last, "begun", tool, request, tenant, call))
        return self._last

    def remember(self, key: int, memory: Mapping[str, str]) -> None:
        """Write what rollback needs."""
        self._write(_Line(key, "memory", memory=dict(memory)))

    def end(self, key: int, state: Literal["committed", "rolled_back"]) -> None:
        """Write how the call ended."""
        self._write(_Line(key, state))
        self._open.discard(key)

    def close(self) -> None:
        """End the file; it stays for the next process if a call is still open."""
        if self._descriptor < 0:
            return
        if not self._open:
            self._path.unlink(missing_ok=True)
        os.close(self._descriptor)
        self._descriptor = -1

    def _write(self, line: _Line) -> None:
        if self._descriptor < 0:
            self._create()
        os.write(self._descriptor, encode(line))
        os.fdatasync(self._descriptor)

    def _create(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._path = self._directory / f"{os.getpid()}-{os.urandom(4).hex()}{SUFFIX}"
        flags = os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_WRONLY | os.O_CLOEXEC
        self._descriptor = os.open(self._path, flags, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)


def leftovers(directory: Path) -> Iterator[tuple[Path, int, list[Leftover]]]:
    """The files whose process is gone, locked meanwhile, each with its open descriptor and the calls to roll back.

    A line that a dying process cut off counts as not written. Whoever iterates ends each file with `os.unlink`.
    """
    for path in sorted(directory.glob(f"*{SUFFIX}")) if directory.is_dir() else ():
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # another process has just dealt with it
        try:
            with suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if path.exists():
                    yield path, descriptor, list(_unsettled(path))
        finally:
            os.close(descriptor)


def _unsettled(path: Path) -> Iterator[Leftover]:
    begun: dict[int, Leftover] = {}
    raw = path.read_bytes()
    whole, _, _ = raw.rpartition(b"\n")
    for number, text in enumerate(whole.splitlines(), 1):
        try:
            line = _DECODER.decode(text)
        except msgspec.DecodeError as error:
            raise LlmsysError(f"{path}:{number}: no line of a journal: {error}; look at it, then remove it") from error
        if line.state == "begun":
            begun[line.key] = Leftover(line.key, line.tool, line.request, line.tenant, line.call, {})
        elif line.state == "memory" and line.key in begun:
            begun[line.key] = msgspec.structs.replace(begun[line.key], memory=line.memory)
        else:
            begun.pop(line.key, None)
    yield from begun.values()
