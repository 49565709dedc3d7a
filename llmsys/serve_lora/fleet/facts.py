"""What can be told of a fleet: its replicas one by one, and counts from its start. Knows nothing of how it works."""

from dataclasses import dataclass

__all__ = ["FleetFacts", "ReplicaFacts"]


@dataclass(frozen=True, slots=True)
class ReplicaFacts:
    """A replica: its process, the requests on it, their sequences and tokens, the adapters in its slots."""

    number: int
    pid: int
    address: str
    requests: int
    sequences: int
    tokens: int
    resident: list[str]


@dataclass(frozen=True, slots=True)
class FleetFacts:
    """Replicas that answer; starts, losses and requests moved so far; seconds of the last start by stage."""

    replicas: list[ReplicaFacts]
    starts: int
    losses: int
    moves: int
    stages_s: dict[str, float]
