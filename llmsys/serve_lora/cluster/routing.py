"""Which replica a request goes to.

    punica         the fullest replica that has room; ties: the highest number (Punica, §5). Light replicas drain.
    least-loaded   the emptiest replica that has room
    round-robin    the next one that has room
    affinity       as punica, among those that hold the adapter if any of them has room
    bounded        the first with room in an order of the adapter's own, passing by those with more than 5/4 of the mean
                   load: adapters stay where they are, and none floods its replica (consistent hashing with bounded
                   loads, Mirrokni, Thorup & Zadimoghaddam, SODA 2018)
    dedicated      a replica of merged weights per adapter: what the others are measured against

The same rules place simulated requests and live ones. Knows nothing of time.
"""

import math
from collections.abc import Callable, Container, Sequence, Sized
from typing import Any, Protocol, TypeVar

from xxhash import xxh3_64_intdigest

from llmsys.errors import UsageFault

__all__ = ["POLICIES", "Host", "Placed", "Router", "make_router"]


class Placed(Protocol):
    """A request to be placed; an empty adapter is the base model."""

    @property
    def adapter(self) -> str: ...


class Host(Protocol):
    """A replica as a rule sees it: its number, what runs on it, the adapters in its slots, whether one more fits."""

    @property
    def number(self) -> int: ...
    @property
    def running(self) -> Sized: ...
    @property
    def resident(self) -> Container[str]: ...
    def fits(self, job: Any, /) -> bool: ...  # noqa: ANN401 (each kind of replica takes its own kind of request)


H = TypeVar("H", bound=Host)
BOUND = 1.25
Choice = Callable[[Placed, Sequence[Host]], Host]
"""Picks among replicas that all have room; there is at least one."""


class Router:
    """A placement rule. consolidates: light replicas are emptied from time to time; merged: one adapter per replica."""

    def __init__(self, name: str, choose: Choice, *, consolidates: bool, merged: bool = False) -> None:
        self.name = name
        self.consolidates = consolidates
        self.merged = merged
        self._choose = choose

    def route(self, job: Placed, replicas: Sequence[H]) -> H | None:
        """The replica for a job, None where none has room."""
        fitting = {replica.number: replica for replica in replicas if replica.fits(job)}
        return fitting[self._choose(job, list(fitting.values())).number] if fitting else None


def make_router(name: str) -> Router:
    """A rule by its name. Raises UsageFault that lists them."""
    if name not in POLICIES:
        raise UsageFault(f"--policy {name!r} is unknown; expected some of {', '.join(POLICIES)}")
    return POLICIES[name]()


def _fullest(_job: Placed, fitting: Sequence[Host]) -> Host:
    return max(fitting, key=lambda replica: (len(replica.running), replica.number))


def _emptiest(_job: Placed, fitting: Sequence[Host]) -> Host:
    return min(fitting, key=lambda replica: (len(replica.running), replica.number))


def _with_adapter(job: Placed, fitting: Sequence[Host]) -> Host:
    holding = [replica for replica in fitting if not job.adapter or job.adapter in replica.resident]
    return _fullest(job, holding or fitting)


def _bounded(job: Placed, fitting: Sequence[Host]) -> Host:
    ordered = sorted(fitting, key=lambda replica: _place_of(job.adapter, replica.number))
    mean = (sum(len(replica.running) for replica in fitting) + 1) / len(fitting)
    return next((replica for replica in ordered if len(replica.running) + 1 <= math.ceil(BOUND * mean)), ordered[0])


def _place_of(adapter: str, number: int) -> int:
    """Where a replica stands in an adapter's order; a replica that comes or goes changes nothing for the others."""
    return xxh3_64_intdigest(f"{adapter}\0{number}".encode())


class _Turns:
    """Remembers whose turn it is."""

    def __init__(self) -> None:
        self._last = -1

    def __call__(self, _job: Placed, fitting: Sequence[Host]) -> Host:
        later = [replica for replica in fitting if replica.number > self._last]
        chosen = min(later or fitting, key=lambda replica: replica.number)
        self._last = chosen.number
        return chosen


POLICIES: dict[str, Callable[[], Router]] = {
    "punica": lambda: Router("punica", _fullest, consolidates=True),
    "affinity": lambda: Router("affinity", _with_adapter, consolidates=True),
    "bounded": lambda: Router("bounded", _bounded, consolidates=False),
    "least-loaded": lambda: Router("least-loaded", _emptiest, consolidates=False),
    "round-robin": lambda: Router("round-robin", _Turns(), consolidates=False),
    "dedicated": lambda: Router("dedicated", _emptiest, consolidates=False, merged=True),
}
