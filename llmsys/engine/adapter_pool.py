"""Which adapters there are, and which of them hold a slot: registered is not resident.

A slot is taken on first use, kept while any sequence refers to it, and given to another adapter in order of last use,
within a number of slots and one budget of memory. Files are read in a thread of their own while sequences run.
Registering a name again makes a new generation: sequences under way end on the old one. Knows nothing of requests.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

from llmsys.engine.adapter_files import AdapterFile, read_adapter
from llmsys.engine.adapter_loader import AdapterLoader
from llmsys.engine.errors import AdapterBusy, AdapterError
from llmsys.engine.factors import Factor
from llmsys.engine.lora import AdapterWeights, HostAdapters, Segment, segments_of
from llmsys.engine.model import LowRank, ModelConfig
from llmsys.engine.parts import AdapterBudget
from llmsys.gpu import is_out_of_memory

__all__ = ["AdapterMemory", "AdapterPool"]

MEMORY_BYTES = 2 << 30
Reader = Callable[[Path], AdapterFile]


class _Held(Protocol):
    """A resident adapter."""

    @property
    def bytes(self) -> int:
        """Memory that it takes."""


H = TypeVar("H", bound=_Held)


class AdapterMemory(Protocol[H]):
    """Where resident adapters stand: `HostAdapters` on a CPU, `DeviceAdapters` on a GPU."""

    def bytes_of(self, rank: int) -> int:
        """Memory that an adapter of this rank takes."""

    def prepare(self, rank: int, factors: Iterable[Factor]) -> "AdapterWeights | tuple[Factor, ...]":
        """Lay an adapter out as `place` would, in any thread; factors, where the rest is the engine's thread's."""

    def place(self, rank: int, factors: Iterable[Factor]) -> H:
        """Copy an adapter's factors in."""

    def drop(self, held: H) -> None:
        """Free an adapter's memory, or give it to another."""

    def step(self, parts: Sequence[tuple[Segment, H]]) -> LowRank:
        """The low-rank part of a step whose adapters' rows are these segments, in order and without gaps."""


@dataclass(slots=True)
class _Registered:
    """A name's current generation; the file is read on first use, and the digest is that of its first reading."""

    path: Path
    generation: int
    digest: bytes = b""
    rank: int = 0
    slot: int | None = None


@dataclass(slots=True)
class _Slot:
    """What a slot holds, what it was charged for, who uses it, and when it was last taken."""

    weights: _Held
    charged_bytes: int
    holder: _Registered
    references: int = 0
    last_use: int = 0


class AdapterPool:
    """Adapters by name, slots by number; at most `slots` adapters of `memory_bytes` in all are resident.

    memory: where they stand, a CPU's memory if left out.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        slots: int,
        rank_max: int,
        dtype: torch.dtype,
        memory_bytes: int = MEMORY_BYTES,
        memory: AdapterMemory[Any] | None = None,
    ) -> None:
        self._config = config
        self._limit = slots
        self._memory: AdapterMemory[Any] = memory or HostAdapters(config, dtype=dtype)
        self._memory_bytes = memory_bytes
        self._budget: AdapterBudget | None = None
        self._registered: dict[str, _Registered] = {}
        self._slots: dict[int, _Slot] = {}
        self._reader: Reader = partial(read_adapter, config=config, rank_max=rank_max)
        self._loader: AdapterLoader | None = AdapterLoader(lambda path: self.prepare(self._reader(path)))
        self._clock = 0
        self._generations = 0
        self._last: tuple[list[int], LowRank | None] = ([], None)

    def register(self, name: str, path: str | Path) -> None:
        """Make a directory known under a name; nothing is read yet. A known name becomes a new generation."""
        self._generations += 1
        self._registered[name] = _Registered(Path(path), self._generations)

    def read_through(self, reader: Reader) -> None:
        """Read adapters with `reader(path)` from now on, which returns or raises what `read_adapter` would.

        It is called in the engine's thread and ought to have them in memory.
        """
        self._reader, self._loader = reader, None

    def bytes_of(self, rank: int) -> int:
        """Memory that an adapter of this rank takes; the gains of DoRA, a few kilobytes, are not in it."""
        return self._memory.bytes_of(rank)

    def share(self, budget: AdapterBudget) -> None:
        """Take memory from this budget too, beside the pool's own bound. Raises ValueError if any is resident."""
        if self._slots:
            raise ValueError(f"{len(self._slots)} adapters are resident; expected none")
        self._budget = budget

    def shed(self) -> bool:
        """Give shared memory back by evicting the idle adapter used longest ago; False where there is none."""
        if self._budget is None or all(slot.references for slot in self._slots.values()):
            return False
        self._evict()
        return True

    def prepare(self, file: AdapterFile) -> AdapterFile:
        """The same adapter laid out for a slot, as far as that needs no engine's thread; safe in any thread."""
        made = self._memory.prepare(file.rank, file.factors)
        return replace(file, factors=made) if isinstance(made, tuple) else replace(file, factors=(), weights=made)

    def unregister(self, name: str) -> None:
        """Forget a name; sequences under way end on it."""
        self._find(name)
        del self._registered[name]

    def names(self) -> tuple[str, ...]:
        """Every registered name, sorted."""
        return tuple(sorted(self._registered))

    def digest(self, name: str) -> bytes:
        """Identity of what the name means now: content digest and generation. Reads the file if nobody has yet."""
        registered = self._find(name)
        if not registered.digest:
            self._read(registered)
        return registered.digest + registered.generation.to_bytes(8, "little")

    def rank(self, name: str) -> int:
        """The adapter's largest rank. Reads the file if nobody has yet."""
        registered = self._find(name)
        return registered.rank or self._read(registered).rank

    def acquire(self, name: str) -> int:
        """Take a reference to the name's slot, loading the adapter if it is not resident.

        Raises AdapterError for an adapter that does not fit or for which the machine has no memory, AdapterBusy when
        every slot, or the memory that is left, is held by sequences.
        """
        registered = self._find(name)
        if registered.slot is None:
            try:
                registered.slot = self._place(registered)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                raise AdapterError(f"{registered.path}: out of memory while it was loaded: {error}") from error
        slot = self._slots[registered.slot]
        self._clock += 1
        slot.last_use = self._clock
        slot.references += 1
        return registered.slot

    def is_resident(self, name: str) -> bool:
        """Whether a name's current generation holds a slot."""
        registered = self._registered.get(name)
        return registered is not None and registered.slot is not None

    def is_ready(self, name: str) -> bool:
        """Whether `acquire` would wait for no disk; if not, the adapter is being read from now on."""
        registered = self._registered.get(name)
        if registered is None or registered.slot is not None or self._loader is None:
            return True
        return self._loader.is_ready(registered.generation, registered.path)

    def release(self, slot: int) -> None:
        """Give one reference back."""
        self._slots[slot].references -= 1

    def resident(self) -> tuple[str, ...]:
        """Names that hold a slot now, sorted."""
        return tuple(sorted(name for name, entry in list(self._registered.items()) if entry.slot is not None))

    def resident_bytes(self) -> int:
        """Memory of all resident adapters, those of forgotten names included."""
        return sum(slot.weights.bytes for slot in self._slots.values())

    def references(self) -> int:
        """References held in all; 0 when no sequence uses an adapter."""
        return sum(slot.references for slot in self._slots.values())

    def step(self, slots: list[int]) -> LowRank | None:
        """The low-rank part of a step whose rows have these slots, in `row_order`; None if all are base rows.

        Decoding asks for the same rows again and again: the last answer is kept.
        """
        if self._last[0] != slots:
            parts = [(segment, self._slots[segment.slot].weights) for segment in segments_of(slots)]
            self._last = (slots, self._memory.step(parts) if parts else None)
        return self._last[1]

    def row_order(self, slot: int) -> int:
        """Sort key of a row: rows of one adapter together, base rows last."""
        return slot if slot >= 0 else self._limit

    def _find(self, name: str) -> _Registered:
        if name not in self._registered:
            raise AdapterError(f"no such adapter {name!r}; adapters: {', '.join(self.names()) or 'none'}")
        return self._registered[name]

    def _read(self, registered: _Registered) -> AdapterFile:
        """The adapter's checked contents, which must be what they were when it was first read."""
        if self._loader is None:
            file = self._reader(registered.path)
        else:
            file = self._loader.take(registered.generation, registered.path)
        if registered.digest not in (b"", file.digest):
            raise AdapterError(f"{registered.path}: changed after it was registered; register it again")
        registered.digest, registered.rank = file.digest, file.rank
        return file

    def _place(self, registered: _Registered) -> int:
        """Load an adapter into a slot of its own; idle ones go until it fits."""
        file = self._read(registered)
        needed = self._memory.bytes_of(file.rank)
        if needed > self._memory_bytes:
            raise AdapterError(
                f"{registered.path}: takes {needed} bytes; expected at most {self._memory_bytes}, the budget"
            )
        while not self._takes(needed):
            self._evict()
        try:
            weights = file.weights if file.weights is not None else self._memory.place(file.rank, file.factors)
        except BaseException:
            self._give_back(needed)
            raise
        number = next(number for number in range(self._limit) if number not in self._slots)
        self._slots[number] = _Slot(weights, needed, holder=registered)
        self._last = ([], None)
        return number

    def _takes(self, needed: int) -> bool:
        """Whether an adapter of this size fits now; then its memory is charged."""
        if len(self._slots) >= self._limit or self.resident_bytes() + needed > self._memory_bytes:
            return False
        return self._budget is None or self._budget.take(needed)

    def _give_back(self, charged_bytes: int) -> None:
        if self._budget is not None:
            self._budget.give_back(charged_bytes)

    def _evict(self) -> None:
        """Free the idle slot used longest ago."""
        idle = [number for number, slot in self._slots.items() if slot.references == 0]
        if not idle:
            held = f"{len(self._slots)} of {self._limit} adapter slots and {self.resident_bytes()} bytes"
            raise AdapterBusy(f"all of {held} are in use; one has to finish first")
        number = min(idle, key=lambda number: self._slots[number].last_use)
        slot = self._slots.pop(number)
        slot.holder.slot = None
        self._last = ([], None)
        self._memory.drop(slot.weights)
        self._give_back(slot.charged_bytes)
