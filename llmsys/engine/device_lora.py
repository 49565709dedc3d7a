"""Segmented LoRA on a GPU: adapters of like rank stand in one bank, and a bank adds its part in two launches.

Ranks are rounded up to a power of two, never to the largest of all. A bank doubles when it is full. Has run on a CPU
only, with the kernels under Triton's interpreter: on no GPU yet. Knows nothing of files or of who asked for which
adapter.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate

import torch
from torch import Tensor

from llmsys.engine.dora import Gains, fold_magnitudes
from llmsys.engine.factors import GROUPS, Factor, group_widths
from llmsys.engine.lora import Segment
from llmsys.engine.model import Decoder, ModelConfig
from llmsys.gpu.kernels.segmented_lora import expand, shrink
from llmsys.gpu.triton_mode import next_power_of_2

__all__ = ["BankPlace", "DeviceAdapters", "DeviceStep"]

LEAST_RANK = 8


@dataclass(frozen=True, slots=True)
class BankPlace:
    """Where an adapter stands: the bank of its rank, and its number there; `bytes` is the memory that it fills."""

    rank: int
    number: int
    bytes: int
    gains: Gains | None = None


class DeviceAdapters:
    """The adapters' memory on one device: the `AdapterMemory` of a GPU. decoder: as `HostAdapters` says."""

    def __init__(
        self, config: ModelConfig, *, dtype: torch.dtype, device: torch.device, decoder: Decoder | None = None
    ) -> None:
        self._config = config
        self._dtype = dtype
        self._device = device
        self._decoder = decoder
        self._banks: dict[int, _Bank] = {}

    def bytes_of(self, rank: int) -> int:
        """As the protocol says."""
        widths = group_widths(self._config).values()
        numbers = sum(len(outs) * width + sum(outs) for width, outs in widths)
        return _bank_rank(rank) * numbers * self._config.layers * self._dtype.itemsize

    def prepare(self, rank: int, factors: Iterable[Factor]) -> tuple[Factor, ...]:
        """As the protocol says: in the bank's format, and page-locked beside a GPU, which then copies on its own.

        Nothing of this has run beside a GPU.
        """
        return tuple(map(self._staged, factors))

    def _staged(self, factor: Factor) -> Factor:
        if factor.magnitude is not None:  # its gains are computed from the factors as the file has them
            return factor
        a, b = factor.a.to(self._dtype), factor.b.to(self._dtype)
        if self._device.type == "cuda":
            a, b = a.pin_memory(), b.pin_memory()
        return replace(factor, a=a, b=b)

    def place(self, rank: int, factors: Iterable[Factor]) -> BankPlace:
        """As the protocol says; what an adapter does not change is zero."""
        padded = _bank_rank(rank)
        if padded not in self._banks:
            self._banks[padded] = _Bank(self._config, rank=padded, dtype=self._dtype, device=self._device)
        plain, gains = fold_magnitudes(factors, self._decoder)
        held_bytes = self.bytes_of(rank) + (gains.bytes if gains else 0)
        return BankPlace(padded, self._banks[padded].put(plain), held_bytes, gains)

    def drop(self, held: BankPlace) -> None:
        """As the protocol says."""
        self._banks[held.rank].free.append(held.number)

    def step(self, parts: Sequence[tuple[Segment, BankPlace]]) -> "DeviceStep":
        """As the protocol says."""
        ranks = sorted({place.rank for _, place in parts})
        gains = [(slice(part.start, part.end), place.gains) for part, place in parts if place.gains is not None]
        return DeviceStep([_BankPart.of(self._banks[rank], rank, parts, self._device) for rank in ranks], gains)


class DeviceStep:
    """One step's segments: what the decoder adds to each projection."""

    def __init__(self, banks: "Sequence[_BankPart]", gains: Sequence[tuple[slice, Gains]]) -> None:
        self._banks = banks
        self._gains = gains

    def add(self, y: Tensor, x: Tensor, layer: int, group: str) -> Tensor:
        """Add the adapters' part of projection `group` to y [T, out] in place, from x [T, in]; summed in float32."""
        for rows, gains in self._gains:
            gains.apply(y[rows], layer, group)
        for part in self._banks:
            part.add(y, x, layer, group)
        return y


class _Bank:
    """Adapters of one rank: by group, a [layers, slices, places, rank, in] and b [layers, places, out, rank]."""

    def __init__(self, config: ModelConfig, *, rank: int, dtype: torch.dtype, device: torch.device) -> None:
        self.a: dict[str, Tensor] = {}
        self.b: dict[str, Tensor] = {}
        self.columns: dict[str, Tensor] = {}
        self.edges: dict[str, tuple[int, ...]] = {}
        self.widest: dict[str, int] = {}
        self.free = [0]
        for group, (width, outs) in group_widths(config).items():
            self.a[group] = torch.zeros(config.layers, len(outs), 1, rank, width, dtype=dtype, device=device)
            self.b[group] = torch.zeros(config.layers, 1, sum(outs), rank, dtype=dtype, device=device)
            self.edges[group] = (0, *accumulate(outs))
            self.columns[group] = torch.tensor(self.edges[group], dtype=torch.int32, device=device)
            self.widest[group] = max(outs)

    def put(self, factors: Iterable[Factor]) -> int:
        """Place an adapter's factors; returns its number."""
        if not self.free:
            self._double()
        number = self.free.pop()
        for group in GROUPS:
            self.a[group][:, :, number] = 0
            self.b[group][:, number] = 0
        for factor in factors:
            group = next(name for name, targets in GROUPS.items() if factor.target in targets)
            index, rank = GROUPS[group].index(factor.target), factor.a.shape[0]
            low, high = self.edges[group][index : index + 2]
            self.a[group][factor.layer, index, number, :rank].copy_(factor.a, non_blocking=True)
            self.b[group][factor.layer, number, low:high, :rank].copy_(factor.b, non_blocking=True)
        return number

    def _double(self) -> None:
        places = self.b["o"].shape[1]
        self.free = list(range(2 * places - 1, places - 1, -1))
        self.a = {group: torch.cat((a, torch.zeros_like(a)), dim=2) for group, a in self.a.items()}
        self.b = {group: torch.cat((b, torch.zeros_like(b)), dim=1) for group, b in self.b.items()}


@dataclass(frozen=True, slots=True)
class _BankPart:
    """A bank's rows of one step: row bounds [n + 1] and places [n] as the kernels read them, -1 for other banks'."""

    bank: _Bank
    bounds: Tensor
    places: Tensor
    longest: int

    @classmethod
    def of(
        cls, bank: _Bank, rank: int, parts: Sequence[tuple[Segment, BankPlace]], device: torch.device
    ) -> "_BankPart":
        bounds = [segment.start for segment, _ in parts] + [parts[-1][0].end]
        places = [place.number if place.rank == rank else -1 for _, place in parts]
        longest = max(segment.end - segment.start for segment, _ in parts)
        as_tensor = partial(torch.tensor, dtype=torch.int32, device=device)
        return cls(bank, as_tensor(bounds), as_tensor(places), longest)

    def add(self, y: Tensor, x: Tensor, layer: int, group: str) -> None:
        bank = self.bank
        v = shrink(x, bank.a[group][layer], self.bounds, self.places, longest=self.longest)
        columns, widest = bank.columns[group], bank.widest[group]
        b = bank.b[group][layer]
        expand(v, b, self.bounds, self.places, y, columns=columns, widest=widest, longest=self.longest)


def _bank_rank(rank: int) -> int:
    return max(LEAST_RANK, next_power_of_2(rank))
