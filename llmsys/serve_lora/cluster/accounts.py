"""Where a simulated cluster's machine time went: to tenants' steps, to idle replicas, to cold starts.

Every second of every replica is in exactly one account. Knows nothing of prices.
"""

import math

__all__ = ["IDLE_RULES", "PLATFORM", "Accounts"]

IDLE_RULES = ("owner", "spread", "platform")
PLATFORM = "(platform)"


class Accounts:
    """Seconds by tenant. The owner of idle time is the tenant served last, that of a start the one who needed it."""

    def __init__(self) -> None:
        self.busy_s: dict[str, float] = {}
        self.idle_s: dict[str, float] = {}
        self.start_s: dict[str, float] = {}
        self.machine_s = 0.0

    def step(self, tenant: str, seconds: float) -> None:
        """Time in which a tenant's requests were computed, or its adapter loaded."""
        self.busy_s[tenant] = self.busy_s.get(tenant, 0.0) + seconds

    def idle(self, owner: str, seconds: float) -> None:
        """Time in which a replica had nothing to do."""
        self.idle_s[owner] = self.idle_s.get(owner, 0.0) + seconds

    def start(self, owner: str, seconds: float) -> None:
        """Time in which a replica started."""
        self.start_s[owner] = self.start_s.get(owner, 0.0) + seconds

    def shares(self, rule: str) -> dict[str, float]:
        """Seconds that each tenant pays under a rule of IDLE_RULES; they sum to the machine time.

        owner: idle time and starts are their owner's; spread: all tenants' by their busy time; platform: nobody's.
        """
        unused = (self.idle_s, self.start_s)
        if rule == "owner":
            names = sorted({*self.busy_s, *self.idle_s, *self.start_s})
            return {name: math.fsum(part.get(name, 0.0) for part in (self.busy_s, *unused)) for name in names}
        spare = math.fsum(seconds for part in unused for seconds in part.values())
        if rule == "platform":
            return dict(sorted(self.busy_s.items())) | ({PLATFORM: spare} if spare else {})
        busy = math.fsum(self.busy_s.values())
        return {name: seconds * (1 + spare / busy) for name, seconds in sorted(self.busy_s.items())}
