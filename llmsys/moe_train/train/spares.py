"""Workers that are started and wait, so that one takes a dead worker's place at once. Knows no epoch."""

from dataclasses import dataclass, field

__all__ = ["Spares"]


@dataclass(slots=True)
class Spares:
    """Spares that are still `starting` and those that are `ready`, by worker id."""

    starting: set[int] = field(default_factory=set)
    ready: set[int] = field(default_factory=set)

    def arrived(self, worker: int) -> bool:
        """Whether a worker that is ready is a spare; it waits from here on."""
        if worker not in self.starting:
            return False
        self.starting.discard(worker)
        self.ready.add(worker)
        return True

    def take(self) -> int | None:
        """The spare that waits no longer, None where there is none."""
        if not self.ready:
            return None
        worker = min(self.ready)
        self.ready.discard(worker)
        return worker

    def forget(self, worker: int) -> bool:
        """A worker is dead; whether it was a spare."""
        was = worker in self.starting | self.ready
        self.starting.discard(worker)
        self.ready.discard(worker)
        return was
