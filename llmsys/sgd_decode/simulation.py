"""A plan played through in model time: when its lines and parts would end, and the least time any schedule needs.

All sequences of a step advance by one token in t(b) seconds; the plan itself is one of them while it is written. Knows
nothing of text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llmsys.sgd_decode.plan import Node, Plan
from llmsys.sgd_decode.scheduler import Scheduler
from llmsys.sgd_decode.step_time import StepTime

__all__ = ["Schedule", "Workload", "critical_path_tokens", "lower_bound_s", "simulate"]


@dataclass(frozen=True, slots=True)
class Workload:
    """Tokens of a plan: `parts` by number, and `lines`, one per part in the order of lines."""

    parts: Mapping[int, int]
    lines: Sequence[int]

    @property
    def answer_tokens(self) -> int:
        """Tokens of all parts, without the plan."""
        return sum(self.parts.values())


@dataclass(frozen=True, slots=True)
class Schedule:
    """When each part was written (start and end, seconds), when the plan was, and when all was done."""

    spans: Mapping[int, tuple[float, float]]
    plan_s: float
    makespan_s: float


def simulate(plan: Plan, work: Workload, step_time: StepTime, *, slots: int, pipeline: bool = True) -> Schedule:
    """Play a plan with the scheduler of the real thing, which here knows the true lengths.

    pipeline: a part may start once its own line is written, else when the whole plan is. The plan takes a slot.
    """
    if slots < 1:
        raise ValueError(f"{slots} slots; expected 1 or more")
    scheduler = Scheduler(lambda node: float(work.parts[node.id]))
    to_write = list(zip(plan.nodes, work.lines, strict=True))
    written: list[Node] = []
    left: dict[int, int] = {}
    started: dict[int, float] = {}
    spans: dict[int, tuple[float, float]] = {}
    now_s, plan_s, line_left = 0.0, 0.0, to_write[0][1] if to_write else 0
    while to_write or not scheduler.idle:
        for node in scheduler.take(slots - len(left) - int(bool(to_write))):
            left[node.id], started[node.id] = work.parts[node.id], now_s
        width = len(left) + int(bool(to_write))
        steps = min([*left.values(), *([line_left] if to_write else [])])
        now_s += steps * step_time.of(width)
        left = {number: tokens - steps for number, tokens in left.items()}
        if to_write:
            line_left -= steps
        while to_write and line_left == 0:
            written.append(to_write.pop(0)[0])
            line_left = to_write[0][1] if to_write else 0
            plan_s = now_s
        if pipeline or not to_write:
            for node in written:
                scheduler.add(node)
            written = []
        for number in [number for number, tokens in left.items() if tokens == 0]:
            del left[number]
            scheduler.finish(number)
            spans[number] = (started[number], now_s)
    return Schedule(spans, plan_s, now_s)


def critical_path_tokens(plan: Plan, work: Workload) -> int:
    """The most tokens that must be written one after the other: plan lines up to a part, then a chain from it on."""
    behind: dict[int, int] = {}
    for node in reversed(plan.nodes):
        children = (behind[child.id] for child in plan.nodes if node.id in child.needs)
        behind[node.id] = work.parts[node.id] + max(children, default=0)
    lines, longest = 0, 0
    for node, tokens in zip(plan.nodes, work.lines, strict=True):
        lines += tokens
        longest = max(longest, lines + behind[node.id])
    return longest


def lower_bound_s(plan: Plan, work: Workload, step_time: StepTime, *, slots: int) -> float:
    """Seconds that no schedule of this plan beats: its longest chain at t(1), all its tokens at the best t(b) / b."""
    tokens = sum(work.lines) + work.answer_tokens
    return max(critical_path_tokens(plan, work) * step_time.of(1), tokens * step_time.per_token(slots))
