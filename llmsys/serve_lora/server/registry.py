"""The adapters of a server: which there are, whether they are sound, and what happens when their files change.

Nothing is read until it is asked for. A directory of adapters is looked at again with every request, so that one that
appears there can be used at once, one that is replaced becomes a new generation, and one that is removed is gone.
Reading and checking happen outside the engine's thread; a broken adapter is its own requests' fault only.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

from llmsys.engine.errors import AdapterBusy, AdapterError
from llmsys.serve_lora.adapter_check import check_name
from llmsys.serve_lora.adapter_files import CONFIG_FILE, WEIGHTS_FILE
from llmsys.serve_lora.adapter_shelf import AdapterShelf, Signature, signature

__all__ = ["AdapterInfo", "AdapterRegistry", "Slots"]


class Slots(Protocol):
    """The part of the engine's adapter pool that a registry drives, in the engine's thread."""

    def register(self, name: str, path: Path | str) -> None:
        """Give a path a name; a known name becomes a new generation."""

    def unregister(self, name: str) -> None:
        """Forget a name; sequences under way end on it."""

    def resident(self) -> tuple[str, ...]:
        """Names that hold a slot."""

    def acquire(self, name: str) -> int:
        """Hold a name's slot, so that it is not given to another. Raises AdapterBusy, AdapterError."""

    def release(self, slot: int) -> None:
        """Give one hold back."""


@dataclass(frozen=True, slots=True)
class AdapterInfo:
    """One adapter as `/v1/lora_adapters` shows it.

    tier: registered (not read yet), disk (checked, but no longer in memory), host, resident (in a slot), or broken.
    """

    name: str
    path: str
    tier: str
    generation: int
    rank: int
    file_bytes: int
    digest: str
    uses: int
    last_use_s: float | None
    pinned: bool
    fault: str


@dataclass(slots=True, eq=False)
class _Entry:
    """What is known of a name; `signature` is of the files that the engine was told of, `pin` the slot that is held."""

    path: Path
    signature: Signature | None = None
    generation: int = 0
    rank: int = 0
    file_bytes: int = 0
    digest: str = ""
    uses: int = 0
    last_use_s: float | None = None
    pin: int | None = None
    fault: str = ""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class AdapterRegistry:
    """Names to adapters. `in_engine(action)` runs an action on the engine's slots in the engine's thread.

    shelf: the tier between disk and slots. pins_max: adapters that may keep their slots for good. ranks: filled with
    the rank of every adapter that the engine knows, for the meter.
    """

    def __init__(
        self,
        directory: Path | None,
        named: Mapping[str, Path],
        *,
        shelf: AdapterShelf,
        pins_max: int,
        in_engine: Callable[[Callable[[Slots], None]], Awaitable[None]],
        ranks: dict[str, int],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._directory = directory
        self._entries = {name: _Entry(path) for name, path in named.items()}
        self._shelf = shelf
        self._pins_max = pins_max
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
        """Bring an adapter to the host, and tell the engine of it if its files are new.

        Raises AdapterError for what does not fit.
        """
        entry = self._find(name)
        if entry is None:
            raise AdapterError(f"no such adapter {name!r}")
        entry.uses += 1
        entry.last_use_s = self._clock()
        if entry.signature != signature(entry.path) or not self._shelf.holds(entry.path):
            async with entry.lock:
                await self._take_in(name, entry)

    async def pin(self, name: str, *, hold: bool) -> None:
        """Let an adapter keep its slot whatever is asked for, or no longer.

        Raises KeyError for one that is not there, ValueError for more than may be pinned, AdapterError for files that
        do not fit, AdapterBusy where every slot is in use.
        """
        entry = self._find(name)
        if entry is None:
            raise KeyError(name)
        async with entry.lock:
            if hold and entry.pin is None:
                if sum(other.pin is not None for other in self._entries.values()) >= self._pins_max:
                    raise ValueError(f"{self._pins_max} adapters are pinned; one slot at least is for the others")
                await self._take_in(name, entry)
                await self._in_engine(partial(_hold, name, entry))
            elif not hold:
                await self._in_engine(partial(_let_go, entry))

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
            entry.generation, entry.pin = self._entries[name].generation, self._entries[name].pin
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
            await self._in_engine(partial(_forget, name, entry))

    def report(self, resident: tuple[str, ...]) -> list[AdapterInfo]:
        """Every adapter in order of name, given those that hold a slot."""
        return [self._info(name, resident) for name in self.names()]

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
        now = signature(entry.path)
        try:
            file = await asyncio.wrap_future(self._shelf.bring(entry.path))
        except AdapterError as error:
            entry.fault = error.message
            raise
        if now == entry.signature:
            return
        self._ranks[name] = file.rank
        await self._in_engine(partial(_replace, name, entry))
        entry.signature = now
        entry.generation += 1
        entry.rank, entry.digest, entry.fault = file.rank, file.digest.hex(), ""
        entry.file_bytes = now[1][1]

    def _info(self, name: str, resident: tuple[str, ...]) -> AdapterInfo:
        entry = self._entries[name]
        tier = "registered" if entry.signature is None else self._shelf.tier(entry.path)
        return AdapterInfo(
            name=name,
            path=str(entry.path),
            tier="broken" if entry.fault else "resident" if name in resident else tier,
            generation=entry.generation,
            rank=entry.rank,
            file_bytes=entry.file_bytes,
            digest=entry.digest,
            uses=entry.uses,
            last_use_s=entry.last_use_s,
            pinned=entry.pin is not None,
            fault=entry.fault,
        )

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
    return (path / CONFIG_FILE).is_file()


def _within(path: Path, directory: Path) -> bool:
    """Whether a directory and the two files in it are really below `directory`, links followed."""
    root = directory.resolve()
    return all(one.resolve().is_relative_to(root) for one in (path, path / CONFIG_FILE, path / WEIGHTS_FILE))


def _replace(name: str, entry: _Entry, slots: Slots) -> None:
    """Register what an entry's path holds now; a pinned adapter goes on pinned, as what it is now."""
    slots.register(name, entry.path)
    if entry.pin is not None:
        _let_go(entry, slots)
        with suppress(AdapterBusy):  # then it is as any other, which its report says
            _hold(name, entry, slots)


def _hold(name: str, entry: _Entry, slots: Slots) -> None:
    entry.pin = slots.acquire(name)


def _let_go(entry: _Entry, slots: Slots) -> None:
    if entry.pin is not None:
        slots.release(entry.pin)
        entry.pin = None


def _forget(name: str, entry: _Entry, slots: Slots) -> None:
    _let_go(entry, slots)
    slots.unregister(name)
