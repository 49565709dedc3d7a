"""Where counters outlive the process: nowhere, or in a SQLite file.

Redis is in `shared.py`. A store takes one batch of changes for every sync. Knows no policy.
"""

import asyncio
import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

from llmsys.errors import BadInput, LlmsysError
from llmsys.fair_queue.gateway.ledger import Batch, InFlight, Remote

__all__ = ["MemoryStore", "Saved", "SqliteStore", "Store"]

T = TypeVar("T")
VERSION = 1
SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS counters (tenant TEXT PRIMARY KEY, counter REAL NOT NULL);
CREATE TABLE IF NOT EXISTS totals (
    tenant TEXT PRIMARY KEY, requests INTEGER NOT NULL, prompt_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS running (
    id TEXT PRIMARY KEY, tenant TEXT NOT NULL, prompt_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS limits (tenant TEXT PRIMARY KEY, json TEXT NOT NULL);
"""


@dataclass(slots=True)
class Saved:
    """What an earlier life left: counters, the lift's floor, totals, requests that ran then, limits changed since."""

    counters: dict[str, float] = field(default_factory=dict)
    floor: float | None = None
    totals: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    running: list[InFlight] = field(default_factory=list)
    limits: dict[str, str] = field(default_factory=dict)


class Store(Protocol):
    """Keeps counters. `fault` says why the last push failed, None after one that did not; `shared` stores are synced
    when nothing has changed here, too."""

    fault: str | None
    shared: bool

    async def load(self) -> Saved: ...

    async def push(self, batch: Batch) -> Remote | None: ...

    async def keep_limits(self, tenant: str, json: str) -> None: ...

    async def close(self) -> None: ...


class MemoryStore:
    """Keeps nothing past the process."""

    fault: str | None = None
    shared = False

    async def load(self) -> Saved:
        """Nothing was left."""
        return Saved()

    async def push(self, batch: Batch) -> Remote | None:
        """Nothing to do."""
        return None

    async def keep_limits(self, tenant: str, json: str) -> None:
        """Nothing to do."""

    async def close(self) -> None:
        """Nothing is open."""


class SqliteStore:
    """One transaction per batch in write-ahead mode: it survives the process at once, the machine after a checkpoint.

    A second process on the same file is refused. A push that fails (a full disk) is kept and goes with the next.
    Raises BadInput for a file that is no state of this version, LlmsysError where it cannot be opened or is in use.
    """

    def __init__(self, path: Path) -> None:
        self.fault: str | None = None
        self.shared = False
        self._path = path
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="fair-queue-state")
        self._unsaved: list[Batch] = []
        self._lock = _locked(path)
        self._database = self._opened()

    async def load(self) -> Saved:
        """Read what was left, and forget the requests that ran: they are settled at what they were charged."""
        return await self._run(self._load)

    async def push(self, batch: Batch) -> Remote | None:
        """Write a batch, and any that failed before it."""
        self._unsaved.append(batch)
        try:
            await self._run(lambda: self._write(self._unsaved))
        except sqlite3.Error as error:
            self.fault = f"{self._path}: {error}"
            self._unsaved = [_merged(self._unsaved)]
        else:
            self.fault = None
            self._unsaved = []
        return None

    async def keep_limits(self, tenant: str, json: str) -> None:
        """Keep limits that were changed while running."""
        await self._run(lambda: self._keep_limits(tenant, json))

    async def close(self) -> None:
        """Close the file."""
        await self._run(self._database.close)
        self._worker.shutdown()
        os.close(self._lock)

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._worker, work)

    def _opened(self) -> sqlite3.Connection:
        try:
            database = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=1.0)
            (version,) = database.execute("PRAGMA user_version").fetchone()
            if version not in (0, VERSION):
                right = f"version {VERSION}; --state-reset moves the file aside"
                raise BadInput(str(self._path), f"state of version {version}", right)
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")
            database.executescript(SCHEMA + f"PRAGMA user_version = {VERSION};")
        except sqlite3.DatabaseError as error:
            right = "a state file of this gateway; --state-reset moves it aside"
            raise BadInput(str(self._path), str(error), right) from error
        return database

    def _load(self) -> Saved:
        read = self._database.execute
        facts = dict(read("SELECT name, value FROM facts").fetchall())
        saved = Saved(
            counters=dict(read("SELECT tenant, counter FROM counters").fetchall()),
            floor=float(facts["floor"]) if "floor" in facts else None,
            totals={name: (n, p, q) for name, n, p, q in read("SELECT * FROM totals").fetchall()},
            running=[InFlight(*row) for row in read("SELECT * FROM running").fetchall()],
            limits=dict(read("SELECT tenant, json FROM limits").fetchall()),
        )
        self._database.execute("DELETE FROM running")
        return saved

    def _write(self, batches: list[Batch]) -> None:
        run, many = self._database.execute, self._database.executemany
        run("BEGIN IMMEDIATE")
        try:
            for batch in batches:
                if batch.afresh:
                    run("DELETE FROM counters")
                    run("DELETE FROM facts")
                many("INSERT OR REPLACE INTO counters VALUES (?, ?)", batch.counters.items())
                many("INSERT OR REPLACE INTO totals VALUES (?, ?, ?, ?)", [(k, *v) for k, v in batch.totals.items()])
                rows = [(one.id, one.tenant, one.prompt_tokens, one.output_tokens) for one in batch.running]
                many("INSERT OR REPLACE INTO running VALUES (?, ?, ?, ?)", rows)
                many("DELETE FROM running WHERE id = ?", [(one,) for one in batch.ended])
                if batch.floor is not None:
                    run("INSERT OR REPLACE INTO facts VALUES ('floor', ?)", (repr(batch.floor),))
            run("COMMIT")
        except sqlite3.Error:
            with contextlib.suppress(sqlite3.Error):
                run("ROLLBACK")
            raise

    def _keep_limits(self, tenant: str, json: str) -> None:
        self._database.execute("INSERT OR REPLACE INTO limits VALUES (?, ?)", (tenant, json))


def _merged(batches: list[Batch]) -> Batch:
    """One batch that says what all of them say."""
    whole = Batch()
    running: dict[str, InFlight] = {}
    for batch in batches:
        if batch.afresh:
            whole.counters, whole.floor, whole.afresh = {}, None, True
        whole.counters |= batch.counters
        whole.totals |= batch.totals
        whole.floor = whole.floor if batch.floor is None else batch.floor
        started = {one.id: one for one in batch.running}
        running |= started
        whole.ended = [one for one in whole.ended if one not in started]
        for ended in batch.ended:
            running.pop(ended, None)
        whole.ended += batch.ended
    whole.running = list(running.values())
    return whole


def _locked(path: Path) -> int:
    """Hold the file's lock while the process lives."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path.with_name(path.name + ".lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise LlmsysError(
            f"{path} is in use by another gateway: separate counters are not fair; share them by --state redis://"
        ) from error
    except OSError as error:
        raise LlmsysError(f"{path}: {error.strerror}") from error
    return descriptor
