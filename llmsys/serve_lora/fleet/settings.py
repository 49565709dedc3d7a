"""How many replicas there may be, where they run, where requests go and how long idle ones stay.

Knows nothing of how that is done.
"""

import math
from dataclasses import dataclass

from llmsys.errors import UsageFault
from llmsys.serve_lora.cluster.routing import POLICIES

__all__ = ["FleetSettings", "fleet_settings"]

LOCAL = "local"
RAY = "ray"
MOST = 256
SKI_RENTAL = "ski-rental"


@dataclass(frozen=True, slots=True)
class FleetSettings:
    """A fleet. cluster: "local" for processes, "ray" or ray://HOST:PORT for actors. places: sequences of a replica.

    keep_alive_s: of idle replicas beyond the least, None for as long as a start takes. standby: processes that have
    done their imports and wait. threads: of each replica, 0 for as many as the machine has. silence_s: a replica that
    says nothing for so long is lost.
    """

    cluster: str = LOCAL
    least: int = 1
    most: int = 1
    placement: str = "punica"
    keep_alive_s: float | None = None
    consolidate_s: float = 10.0
    max_moves: int = 3
    standby: int = 0
    places: int = 64
    threads: int = 0
    silence_s: float = 30.0

    def __post_init__(self) -> None:
        if self.cluster not in (LOCAL, RAY) and not self.cluster.startswith("ray://"):
            raise UsageFault(f"--cluster {self.cluster!r}; expected local, ray or ray://HOST:PORT")
        if not (0 <= self.least <= self.most <= MOST and self.most >= 1):
            raise UsageFault(f"--replicas {self.least}:{self.most}; expected a number, or LEAST:MOST up to {MOST}")
        if self.placement not in POLICIES or POLICIES[self.placement]().merged:
            known = ", ".join(name for name, make in POLICIES.items() if not make().merged)
            raise UsageFault(f"--placement {self.placement!r}; expected one of {known}")
        if self.standby and self.cluster != LOCAL:
            raise UsageFault("--standby is for processes of this machine; expected --cluster local")


def fleet_settings(
    replicas: str | None,
    cluster: str,
    placement: str,
    keep_alive: str,
    *,
    consolidate_s: float,
    max_moves: int,
    standby: int,
    places: int,
    threads: int,
    silence_s: float = 30.0,
) -> FleetSettings | None:
    """A fleet as it is written on a command line; None where neither replicas nor a cluster are asked for.

    Raises UsageFault.

    >>> rest = {"consolidate_s": 10.0, "max_moves": 3, "standby": 0, "places": 64, "threads": 0}
    >>> fleet = fleet_settings("0:4", "local", "punica", "ski-rental", **rest)
    >>> fleet.least, fleet.most, fleet.keep_alive_s
    (0, 4, None)
    """
    if replicas is None and cluster == LOCAL:
        return None
    least, _, most = (replicas or "1").partition(":")
    if not (least.isdecimal() and (most or least).isdecimal()):
        raise UsageFault(f"--replicas {replicas!r}; expected a number, or LEAST:MOST as in 0:4")
    return FleetSettings(
        *(cluster, int(least), int(most or least), placement, _keep_alive_s(keep_alive)),
        *(consolidate_s, max_moves, standby, places, threads),
        silence_s=silence_s,
    )


def _keep_alive_s(spec: str) -> float | None:
    if spec == SKI_RENTAL:
        return None
    try:
        seconds = float(spec)
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        raise UsageFault(f"--keep-alive {spec!r}; expected {SKI_RENTAL}, seconds, or inf")
    return seconds
