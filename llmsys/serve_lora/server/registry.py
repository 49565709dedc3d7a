"""The adapters of a server: which there are, whether they are sound, and what happens when their files change.

Nothing is read until it is asked for. A directory of adapters is looked at again with every request, so that one that
appears there can be used at once, one that is replaced becomes a new generation, and one that is removed is gone.
Reading and checking happen outside the engine's thread; a broken adapter is its own requests' fault only.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from llmsys.engine.adapter_files import AdapterFile, read_adapter
from llmsys.engine.errors import AdapterError
from llmsys.engine.lora import group_widths
from llmsys.engine.model import ModelConfig
from llmsys.serve_lora.adapter_check import check_name
from llmsys.serve_lora.adapter_files import CONFIG_FILE, WEIGHTS_FILE

__all__ = ["AdapterInfo", "AdapterRegistry", "Slots"]

HEADER_BYTES = 16 << 20
CONFIG_BYTES = 1 << 20
MISSING = (0, 0, 0)
Signature = tuple[tuple[int, int, int], tuple[int, int, int]]


class Slots(Protocol):
    """The part of the engine's adapter pool that a registry drives, in the engine's thread."""

    def register(self, name: str, path: Path | str) -> None:
        """Give a path a name; a known name becomes a new generation."""

    def unregister(self, name: str) -> None:
        """Forget a name; sequences under way end on it."""

    def resident(self) -> tuple[str, ...]:
        """Names that hold a slot."""


@dataclass(frozen=True, slots=True)
class AdapterInfo:
    """One adapter as `/v1/lora_adapters` shows it. tier: registered (not read yet), host (checked) or resident."""

    name: str
    path: str
    tier: str
    generation: int
    rank: int
    file_bytes: int
    digest: str
    uses: int
    last_use_s: float | None
    fault: str


@dataclass(slots=True, eq=False)
class _Entry:
    """What is known of a name; `signature` is of the files that the engine was told of."""

    path: Path
    signature: Signature | None = None
    generation: int = 0
    rank: int = 0
    file_bytes: int = 0
    digest: str = ""
    uses: int = 0
    last_use_s: float | None = None
    fault: str = ""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class AdapterRegistry:
    """Names to adapters. `in_engine(action)` runs an action on the engine's slots in the engine's thread.

    ranks: filled with the rank of every adapter that the engine knows, for the meter.
    """

    def __init__(
        self,
        directory: Path | None,
        named: Mapping[str, Path],
        *,
        config: ModelConfig,
        rank_max: int,
        in_engine: Callable[[Callable[[Slots], None]], Awaitable[None]],
        ranks: dict[str, int],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._directory = directory
        self._entries = {name: _Entry(path) for name, path in named.items()}
        self._config = config
        self._rank_max = rank_max
        self._in_engine = in_engine
        self._clock = clock
        self._ranks = ranks
        self._hidden: set[str] = set()

    def names(self) -> list[str]:
        """Every adapter that can be asked for now, sorted."""
        if self._directory is not None and self._directory.is_dir():
            for child in self._directory.iterdir():
                self._find(child.name)
        return sorted(name for name in self._entries if self.knows(name))

    def knows(self, name: str) -> bool:
        """Whether a name can be asked for now; looks at that name's directory only."""
        return self._find(name) is not None

    async def prepare(self, name: str) -> None:
        """Check an adapter whose files are new and tell the engine of it. Raises AdapterError for what does not fit."""
        entry = self._find(name)
        if entry is None:
            raise AdapterError(f"no such adapter {name!r}")
        entry.uses += 1
        entry.last_use_s = self._clock()
        if entry.signature is None or entry.signature != _signature(entry.path):
            async with entry.lock:
                await self._take_in(name, entry)

    async def load(self, name: str, path: str, *, replace: bool) -> None:
        """Register an adapter of the adapters directory under a name, checked.

        Raises PermissionError for a path outside the directory, ValueError for a bad or taken name, AdapterError for
        files that do not fit; then nothing has changed.
        """
        if fault := _name_fault(name):
            raise ValueError(fault)
        if self.knows(name) and not replace:
            raise ValueError(f"adapter {name!r} is loaded already; load_inplace replaces it")
        entry = _Entry(self._inside(path))
        if name in self._entries:
            entry.generation = self._entries[name].generation
        await self._take_in(name, entry)
        self._entries[name] = entry
        self._hidden.discard(name)

    async def unload(self, name: str) -> None:
        """Forget a name until it is loaded again. Raises KeyError for one that is not there."""
        entry = self._find(name)
        if entry is None:
            raise KeyError(name)
        self._hidden.add(name)
        del self._entries[name]
        self._ranks.pop(name, None)
        if entry.signature is not None:
            await self._in_engine(lambda slots: slots.unregister(name))

    def report(self, resident: tuple[str, ...]) -> list[AdapterInfo]:
        """Every adapter in order of name, given those that hold a slot."""
        return [_info(name, self._entries[name], resident) for name in self.names()]

    def _find(self, name: str) -> _Entry | None:
        if name in self._hidden:
            return None
        entry = self._entries.get(name)
        if entry is None and self._directory is not None and _name_fault(name) is None:
            path = self._directory / name
            if _is_adapter(path) and _within(path, self._directory):
                entry = self._entries[name] = _Entry(path)
        return entry if entry is not None and _is_adapter(entry.path) else None

    async def _take_in(self, name: str, entry: _Entry) -> None:
        """Check the files as they are now, and let the engine know them if they are not those it knows."""
        signature = _signature(entry.path)
        if signature == entry.signature:
            return
        try:
            file = await asyncio.to_thread(self._read, entry.path)
        except AdapterError as error:
            entry.fault = error.message
            raise
        self._ranks[name] = file.rank
        await self._in_engine(lambda slots: slots.register(name, entry.path))
        entry.signature = signature
        entry.generation += 1
        entry.rank, entry.digest, entry.fault = file.rank, file.digest.hex(), ""
        entry.file_bytes = signature[1][1]

    def _read(self, path: Path) -> AdapterFile:
        """Read and check an adapter whose files are of a size that such an adapter can have."""
        widths = group_widths(self._config).values()
        numbers = self._config.layers * self._rank_max * sum(width * len(outs) + sum(outs) for width, outs in widths)
        for file, limit in ((path / CONFIG_FILE, CONFIG_BYTES), (path / WEIGHTS_FILE, 8 * numbers + HEADER_BYTES)):
            if (size := _facts(file)[1]) > limit:
                raise AdapterError(f"{file}: {size} bytes; expected at most {limit}")
        return read_adapter(path, self._config, rank_max=self._rank_max)

    def _inside(self, path: str) -> Path:
        if self._directory is None:
            raise PermissionError("the server has no adapters directory to load from; start it with --adapters DIR")
        try:
            found = (self._directory / path).resolve()
            if _within(found, self._directory) and found != self._directory.resolve():
                return found
        except (OSError, ValueError, RuntimeError) as error:
            raise PermissionError(f"lora_path {path[:200]!r} is no path") from error
        raise PermissionError(f"lora_path {path[:200]!r} is outside the adapters directory")


def _name_fault(name: str) -> str | None:
    """Why a name cannot be asked for: hidden directories are nobody's adapters."""
    return f"name {name!r} begins with a dot" if name.startswith(".") else check_name(name)


def _is_adapter(path: Path) -> bool:
    return _facts(path / CONFIG_FILE) != MISSING


def _within(path: Path, directory: Path) -> bool:
    """Whether a directory and the two files in it are really below `directory`, links followed."""
    root = directory.resolve()
    return all(one.resolve().is_relative_to(root) for one in (path, path / CONFIG_FILE, path / WEIGHTS_FILE))


def _signature(path: Path) -> Signature:
    """What changes when an adapter's files do: inode, size and time of change of each; zeros for a missing one."""
    return _facts(path / CONFIG_FILE), _facts(path / WEIGHTS_FILE)


def _facts(file: Path) -> tuple[int, int, int]:
    """Inode, size and time of change of a file, or MISSING."""
    try:
        facts = file.stat()
    except OSError:
        return MISSING
    return facts.st_ino, facts.st_size, facts.st_mtime_ns


def _info(name: str, entry: _Entry, resident: tuple[str, ...]) -> AdapterInfo:
    tier = "broken" if entry.fault else "registered" if entry.signature is None else "host"
    return AdapterInfo(
        name=name,
        path=str(entry.path),
        tier="resident" if name in resident else tier,
        generation=entry.generation,
        rank=entry.rank,
        file_bytes=entry.file_bytes,
        digest=entry.digest,
        uses=entry.uses,
        last_use_s=entry.last_use_s,
        fault=entry.fault,
    )
