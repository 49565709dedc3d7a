"""What a server needs of whatever generates its tokens: one engine in a thread, or a fleet of replicas.

Knows neither.
"""

from collections.abc import AsyncGenerator, Mapping
from typing import Protocol

from llmsys.engine.outputs import EngineStats
from llmsys.engine.sequence import Request, TokenEvent

__all__ = ["Door", "Residency", "Spending"]


class Door(Protocol):
    """Streams of requests."""

    @property
    def failure(self) -> str | None:
        """Why no request is taken, None while they are."""

    def stats(self) -> EngineStats:
        """Counts, without waiting."""

    def stream(self, request: Request) -> AsyncGenerator[TokenEvent, None]:
        """Run a request and yield its events; leaving cancels it. Raises EngineError of all kinds."""


class Residency(Protocol):
    """Which adapters are in slots."""

    def resident(self) -> tuple[str, ...]:
        """Names that hold a slot, sorted."""

    def references(self) -> int:
        """References held in all."""


class Spending(Protocol):
    """What the device's time was spent on."""

    @property
    def device_s(self) -> Mapping[str, float]:
        """Seconds charged to each tenant."""

    def seconds_of(self, request_id: int) -> float:
        """Seconds charged to a recent request."""
