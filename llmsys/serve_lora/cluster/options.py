"""Settings of a cluster as they are written on a command line. Knows nothing of commands."""

from dataclasses import replace

from llmsys.errors import UsageFault
from llmsys.serve_lora.cluster.profile import ReplicaProfile
from llmsys.serve_lora.cluster.simulation import ClusterSettings

__all__ = ["parse_limits", "with_keep_alive"]

SKI_RENTAL = "ski-rental"
LIMIT_MAX = 4096


def with_keep_alive(settings: ClusterSettings, spec: str, profile: ReplicaProfile) -> ClusterSettings:
    """The settings with a keep-alive: seconds, inf, or ski-rental. Raises UsageFault.

    Ski rental keeps an idle replica exactly as long as a cold start takes, which costs at most twice the optimum for
    any arrivals.
    """
    if spec == SKI_RENTAL:
        return replace(settings, keep_alive_s=profile.cold_start_s)
    try:
        seconds = float(spec)
    except ValueError:
        seconds = -1.0
    if not seconds >= 0:
        raise UsageFault(f"--keep-alive {spec!r}; expected {SKI_RENTAL}, seconds, or inf")
    return replace(settings, keep_alive_s=seconds)


def parse_limits(spec: str) -> list[int]:
    """Numbers of replicas. Raises UsageFault.

    >>> parse_limits("1-4")
    [1, 2, 3, 4]
    >>> parse_limits("1,2,8")
    [1, 2, 8]
    """
    low, dash, high = spec.partition("-")
    try:
        limits = list(range(int(low), min(int(high), LIMIT_MAX) + 1)) if dash else [int(one) for one in spec.split(",")]
    except ValueError:
        limits = []
    if not limits or min(limits) < 1 or max(limits) > LIMIT_MAX:
        raise UsageFault(f"--gpus {spec!r}; expected as in 1-16 or 1,2,4, at most {LIMIT_MAX}")
    return limits
