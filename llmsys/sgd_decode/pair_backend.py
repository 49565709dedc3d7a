"""Two models as one backend: jobs go to the one they name, what both write comes out on one clock.

Backends in virtual time are played in the order of their events; on the wall clock they take turns. Knows nothing of
why a job names a model.
"""

from dataclasses import replace

from llmsys.sgd_decode.backends import Backend, Delta, Job, Size
from llmsys.sgd_decode.script_backend import ScriptBackend
from llmsys.sgd_decode.step_time import StepTime

__all__ = ["PairBackend"]

TURN_S = 0.002


class PairBackend:
    """A large and a small model. `slots` is the large one's: so many jobs of both together run at once."""

    def __init__(self, large: Backend, small: Backend) -> None:
        self.slots = large.slots
        self._lanes: dict[Size, Backend] = {"large": large, "small": small}
        self._of: dict[str, Size] = {}
        self._last: Size = "small"
        self._now_s = 0.0

    def now_s(self) -> float:
        """Seconds on the large model's clock; virtual seconds where both play scripts."""
        return max(self._now_s, self._lanes["large"].now_s()) if self._virtual else self._lanes["large"].now_s()

    def start(self, job: Job) -> None:
        """Begin a job on the model it names."""
        lane = self._lanes[job.model]
        if isinstance(lane, ScriptBackend):
            lane.sync(self.now_s())
        self._of[job.id] = job.model
        lane.start(job)

    def cancel(self, job_id: str) -> None:
        """End a job, wherever it runs."""
        size = self._of.pop(job_id, None)
        if size is not None:
            self._lanes[size].cancel(job_id)

    def step_time(self) -> StepTime | None:
        """The large model's."""
        return self._lanes["large"].step_time()

    def next_s(self) -> float:
        """When the earlier of both has something."""
        return min(self._lanes[size].next_s() for size in self._busy() or ["large"])

    def wait(self, timeout_s: float | None = None) -> list[Delta]:
        """What comes next from either."""
        deltas: list[Delta] = []
        while not deltas and (busy := self._busy()):
            size = min(busy, key=lambda one: (self._lanes[one].next_s(), one == self._last))
            self._last = size
            alone = len(busy) == 1 or self._virtual
            deltas = self._stamped(size, self._lanes[size].wait(timeout_s if alone else TURN_S))
            if timeout_s is not None:
                break
        return deltas

    def close(self) -> None:
        """Let go of both."""
        for lane in self._lanes.values():
            lane.close()

    @property
    def _virtual(self) -> bool:
        return all(isinstance(lane, ScriptBackend) for lane in self._lanes.values())

    def _busy(self) -> list[Size]:
        running = set(self._of.values())
        return [size for size in self._lanes if size in running]

    def _stamped(self, size: Size, deltas: list[Delta]) -> list[Delta]:
        """Deltas of jobs that still run, on the pair's clock."""
        known = [delta for delta in deltas if self._of.get(delta.job) == size]
        if not self._virtual:
            known = [replace(delta, t_s=self.now_s()) for delta in known]
        for delta in known:
            self._now_s = max(self._now_s, delta.t_s)
            if delta.end is not None:
                del self._of[delta.job]
        return known
