"""Which adapters there are, and which of them hold a slot: registered is not resident.

A slot is taken on first use, kept while any sequence refers to it, and given to another adapter in order of last use.
Registering a name again makes a new generation: sequences under way end on the old one. Knows nothing of requests.
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from llmsys.engine.adapter_files import AdapterFile, read_adapter
from llmsys.engine.errors import AdapterBusy, AdapterError
from llmsys.engine.lora import AdapterArena, LoraStep, segments_of
from llmsys.engine.model import ModelConfig

__all__ = ["RANK_BUCKETS", "AdapterPool"]

RANK_BUCKETS = (8, 16, 32, 64, 128, 256)


@dataclass(slots=True)
class _Registered:
    """A name's current generation; the file is read on first use."""

    path: Path
    generation: int
    file: AdapterFile | None = None
    slot: int | None = None


@dataclass(slots=True)
class _Slot:
    """What a slot holds: its arena and place there, who uses it, and when it was last taken."""

    bucket: int
    place: int
    holder: _Registered
    references: int = 0
    last_use: int = 0


class AdapterPool:
    """Adapters by name, slots by number; at most `slots` adapters are resident."""

    def __init__(self, config: ModelConfig, *, slots: int, rank_max: int, dtype: torch.dtype) -> None:
        self._config = config
        self._limit = slots
        self._rank_max = rank_max
        self._dtype = dtype
        self._registered: dict[str, _Registered] = {}
        self._slots: dict[int, _Slot] = {}
        self._arenas: dict[int, AdapterArena] = {}
        self._clock = 0
        self._generations = 0

    def register(self, name: str, path: str | Path) -> None:
        """Make a directory known under a name; nothing is read yet. A known name becomes a new generation."""
        self._generations += 1
        self._registered[name] = _Registered(Path(path), self._generations)

    def unregister(self, name: str) -> None:
        """Forget a name; sequences under way end on it."""
        self._find(name)
        del self._registered[name]

    def names(self) -> tuple[str, ...]:
        """Every registered name, sorted."""
        return tuple(sorted(self._registered))

    def file(self, name: str) -> AdapterFile:
        """The adapter's checked contents, read now if they were not. Raises AdapterError if it does not fit."""
        registered = self._find(name)
        if registered.file is None:
            registered.file = read_adapter(registered.path, self._config, rank_max=self._rank_max)
        return registered.file

    def digest(self, name: str) -> bytes:
        """Identity of what the name means now: content digest and generation."""
        registered = self._find(name)
        return self.file(name).digest + registered.generation.to_bytes(8, "little")

    def acquire(self, name: str) -> int:
        """Take a reference to the name's slot, loading the adapter if it is not resident.

        Raises AdapterError for an adapter that does not fit, AdapterBusy when every slot is referred to.
        """
        registered = self._find(name)
        file = self.file(name)
        if registered.slot is None:
            self._place(registered, file)
        assert registered.slot is not None
        slot = self._slots[registered.slot]
        self._clock += 1
        slot.last_use = self._clock
        slot.references += 1
        return registered.slot

    def release(self, slot: int) -> None:
        """Give one reference back."""
        self._slots[slot].references -= 1

    def resident(self) -> tuple[str, ...]:
        """Names that hold a slot now, sorted."""
        return tuple(sorted(name for name, entry in self._registered.items() if entry.slot is not None))

    def references(self) -> int:
        """References held in all; 0 when no sequence uses an adapter."""
        return sum(slot.references for slot in self._slots.values())

    def step(self, slots: list[int]) -> LoraStep | None:
        """The low-rank part of a step whose rows have these slots, in `row_order`; None if all are base rows."""
        parts = []
        for arena, numbers in self._spans(slots):
            local = [self._slots[number].place if number in numbers else -1 for number in slots]
            parts.append((arena, segments_of(local)))
        return LoraStep(parts) if parts else None

    def row_order(self, slot: int) -> tuple[int, int, int]:
        """Sort key of a row: rows of one arena together, by place; base rows last."""
        if slot < 0:
            return (1, 0, 0)
        held = self._slots[slot]
        return (0, held.bucket, held.place)

    def _spans(self, slots: list[int]) -> list[tuple[AdapterArena, set[int]]]:
        found: dict[int, tuple[AdapterArena, set[int]]] = {}
        for number in slots:
            if number >= 0:
                arena = self._arenas[self._slots[number].bucket]
                found.setdefault(id(arena), (arena, set()))[1].add(number)
        return list(found.values())

    def _find(self, name: str) -> _Registered:
        if name not in self._registered:
            raise AdapterError(f"no such adapter {name!r}; adapters: {', '.join(self.names()) or 'none'}")
        return self._registered[name]

    def _place(self, registered: _Registered, file: AdapterFile) -> None:
        bucket = next(bucket for bucket in RANK_BUCKETS if bucket >= file.rank)
        number = self._free_slot()
        arena = self._arena(bucket)
        taken = {slot.place for slot in self._slots.values() if slot.bucket == bucket}
        place = next(place for place in range(self._limit) if place not in taken)
        arena.clear(place)
        for factor in file.factors:
            arena.put(place, factor.layer, factor.target, factor.a, factor.b)
        self._slots[number] = _Slot(bucket, place, holder=registered)
        registered.slot = number

    def _free_slot(self) -> int:
        """A slot number that nobody holds: a new one while there is room, else the idle one used longest ago."""
        if len(self._slots) < self._limit:
            return next(number for number in range(self._limit) if number not in self._slots)
        idle = [number for number, slot in self._slots.items() if slot.references == 0]
        if not idle:
            raise AdapterBusy(f"all {self._limit} adapter slots are in use; one has to finish first")
        number = min(idle, key=lambda number: self._slots[number].last_use)
        self._slots.pop(number).holder.slot = None
        return number

    def _arena(self, bucket: int) -> AdapterArena:
        """The arena of a rank bucket; its memory is committed as adapters arrive."""
        if bucket not in self._arenas:
            self._arenas[bucket] = AdapterArena(self._config, rank=bucket, slots=self._limit, dtype=self._dtype)
        return self._arenas[bucket]
