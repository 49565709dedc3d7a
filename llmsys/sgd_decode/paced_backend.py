"""Recorded texts at the pace they were recorded in: a script's virtual time slowed down to the wall clock.

Knows nothing of rules.
"""

import time

from llmsys.sgd_decode.backends import Delta, Job
from llmsys.sgd_decode.script_backend import ScriptBackend
from llmsys.sgd_decode.step_time import StepTime

__all__ = ["PacedBackend"]


class PacedBackend:
    """A script whose every step is over when its time is, not before."""

    def __init__(self, script: ScriptBackend) -> None:
        self.slots = script.slots
        self._script = script
        self._started_s = time.monotonic()

    def now_s(self) -> float:
        """Wall seconds since the backend was made."""
        return time.monotonic() - self._started_s

    def start(self, job: Job) -> None:
        """Begin a job now."""
        self._script.sync(self.now_s())
        self._script.start(job)

    def cancel(self, job_id: str) -> None:
        """End a job at once."""
        self._script.cancel(job_id)

    def wait(self, timeout_s: float | None = None) -> list[Delta]:
        """The next step's words when its time has come; empty where none runs, or where the time is over first."""
        left_s = max(0.0, self._script.next_s() - self.now_s())
        if timeout_s is not None and left_s > timeout_s:
            time.sleep(timeout_s)
            return []
        time.sleep(left_s)
        return self._script.wait()

    def next_s(self) -> float:
        """When the next step is over."""
        return self._script.next_s()

    def step_time(self) -> StepTime | None:
        """The script's law."""
        return self._script.step_time()

    def close(self) -> None:
        """Forget what runs."""
        self._script.close()
