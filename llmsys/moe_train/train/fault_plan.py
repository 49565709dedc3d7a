"""The fault list as the supervisor sees it: what it does itself, what workers have done, what never came to pass."""

import time

from llmsys.moe_train.train.faults import Fault, parse_faults

__all__ = ["FaultPlan"]


class FaultPlan:
    """Joiners, notices and everything by the clock are the supervisor's; the workers do the rest to themselves."""

    def __init__(self, text: str) -> None:
        faults = parse_faults(text)
        self._own = [fault for fault in faults if fault.at_s is not None or fault.kind in ("add", "notice")]
        self._theirs = {
            (worker, fault.step)
            for fault in faults
            if fault not in self._own and fault.kind != "slow"
            for worker in fault.workers
        }
        self._hit_s: dict[int, float] = {}
        self._skipped = 0

    @property
    def brings_workers(self) -> bool:
        """Whether joiners are still to come though no step is taken."""
        return any(fault.kind == "add" and fault.at_s is not None for fault in self._own)

    def due(self, elapsed_s: float, decided: int) -> list[Fault]:
        """What is to be done now, once each: by the clock, or before the step after `decided` is over."""
        found = [
            fault
            for fault in self._own
            if (fault.at_s is not None and fault.at_s <= elapsed_s)
            or (fault.step is not None and fault.step <= decided + 1)
        ]
        self._own = [fault for fault in self._own if fault not in found]
        return found

    def hit(self, worker: int, step: int | None, *, struck: bool = True) -> None:
        """A fault has struck, or its worker was dead already."""
        if struck:
            self._hit_s[worker] = time.monotonic()
        else:
            self._skipped += 1
        self._theirs = {one for one in self._theirs if one[0] != worker or step is None or (one[1] or 0) > step}

    def since_hit(self, worker: int, *, default: float) -> float:
        """Seconds since a worker's fault, `default` where it had none."""
        struck = self._hit_s.get(worker)
        return default if struck is None else time.monotonic() - struck

    def missed(self) -> int:
        """Faults that struck nobody: their worker was dead, or the run over."""
        return self._skipped + len(self._own) + len(self._theirs)
