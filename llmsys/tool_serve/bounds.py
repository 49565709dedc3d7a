"""When a turn with one call can be complete, by policy: closed forms from release times and work (Conveyor, §2.2).

Seconds from the call's first token: `sealed_s` its last token, `rest_s` decoding left in the turn behind it, units
released (decoded) at `releases_s` with `works_s` each. Knows no runtime; the tests hold it to one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["CallShape", "turn_bound"]


@dataclass(frozen=True, slots=True)
class CallShape:
    """One call: when its units can start and how much work each is. Releases ascend and end at or before the seal."""

    sealed_s: float
    rest_s: float
    releases_s: tuple[float, ...]
    works_s: tuple[float, ...]

    def __post_init__(self) -> None:
        ordered = all(low <= high for low, high in zip(self.releases_s, self.releases_s[1:], strict=False))
        within = all(0 <= one <= self.sealed_s for one in self.releases_s)
        if len(self.releases_s) != len(self.works_s) or not ordered or not within or min(self.works_s, default=0) < 0:
            raise ValueError(f"{self}; expected ascending releases up to sealed_s, and work of 0 or more for each")

    @property
    def work_s(self) -> float:
        """W, all the tool's work."""
        return sum(self.works_s)

    @property
    def blocking_s(self) -> float:
        """T_b: the tool starts when the turn is over."""
        return self.sealed_s + self.rest_s + self.work_s

    @property
    def seal_s(self) -> float:
        """T_s: the tool starts when its call is complete."""
        return max(self.sealed_s + self.rest_s, self.sealed_s + self.work_s)

    @property
    def done_s(self) -> float:
        """f_n: when the work is done if each unit starts once it is written and the one before it is done."""
        left, latest = self.work_s, 0.0
        for release, work in zip(self.releases_s, self.works_s, strict=True):
            latest = max(latest, release + left)
            left -= work
        return latest

    @property
    def partial_s(self) -> float:
        """T_p: the turn with partial execution; the least that is possible."""
        return max(self.sealed_s + self.rest_s, self.done_s)

    @property
    def saving(self) -> float:
        """What partial execution saves of blocking, as a share: at most 1/2."""
        return 1 - self.partial_s / self.blocking_s if self.blocking_s else 0.0


def turn_bound(calls: Sequence[CallShape], *, decode_s: float, concurrency: int) -> float:
    """The least time of a turn of several calls: its decoding, each call's own bound, all work over the workers.

    decode_s: seconds to the turn's last token; a call's times count from the turn's first token here.
    """
    if concurrency < 1:
        raise ValueError(f"concurrency is {concurrency}; expected 1 or more")
    done = [one.done_s for one in calls]
    return max([decode_s, *done, sum(one.work_s for one in calls) / concurrency])
