"""The shortest makespan that any order of starting parts reaches, by trying them all: what the scheduler is held to.

Branch and bound over which ready parts start whenever a line or a part ends. Knows nothing of the scheduler's rule.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

from llmsys.sgd_decode.plan import Plan
from llmsys.sgd_decode.simulation import Workload
from llmsys.sgd_decode.step_time import StepTime

__all__ = ["MOST_NODES", "optimum_s"]

MOST_NODES = 8
TOLERANCE = 1e-12


@dataclass(frozen=True, slots=True)
class _State:
    """A moment: tokens left of running parts, parts done, lines done, and tokens left of the line being written."""

    now_s: float
    left: tuple[tuple[int, int], ...]
    done: frozenset[int]
    lines: int
    line_left: int


def optimum_s(plan: Plan, work: Workload, step_time: StepTime, *, slots: int) -> float:
    """Seconds of the best schedule in which a part may start once its line is written and its needs are done.

    The plan takes a slot while it is written. Raises ValueError beyond MOST_NODES parts.
    """
    if len(plan.nodes) > MOST_NODES:
        raise ValueError(f"{len(plan.nodes)} parts; expected at most {MOST_NODES}")
    search = _Search(plan, work, step_time, slots)
    search.visit(_State(0.0, (), frozenset(), 0, work.lines[0] if work.lines else 0))
    return search.best_s


class _Search:
    def __init__(self, plan: Plan, work: Workload, step_time: StepTime, slots: int) -> None:
        self.best_s = float("inf")
        self._plan, self._work, self._step_time, self._slots = plan, work, step_time, slots
        self._seen: dict[tuple[object, ...], float] = {}
        self._behind: dict[int, int] = {}
        for node in reversed(plan.nodes):
            children = (self._behind[child.id] for child in plan.nodes if node.id in child.needs)
            self._behind[node.id] = max(children, default=0)

    def visit(self, state: _State) -> None:
        if len(state.done) == len(self._plan.nodes):
            self.best_s = min(self.best_s, state.now_s)
            return
        key = (state.left, state.done, state.lines, state.line_left)
        if state.now_s + self._least_s(state) >= self.best_s - TOLERANCE or self._seen.get(key, 1e300) <= state.now_s:
            return
        self._seen[key] = state.now_s
        for started in self._choices(state):
            self.visit(self._advanced(state, started))

    def _choices(self, state: _State) -> Iterator[tuple[int, ...]]:
        """Sets of ready parts to start, large ones first; the empty one only where something else goes on."""
        writing = state.lines < len(self._plan.nodes)
        free = self._slots - len(state.left) - int(writing)
        busy = {number for number, _ in state.left}
        ready = [
            node.id
            for node in self._plan.nodes[: state.lines]
            if node.id not in state.done and node.id not in busy and state.done.issuperset(node.needs)
        ]
        ready.sort(key=lambda number: -(self._work.parts[number] + self._behind[number]))
        for count in range(min(free, len(ready)), -1, -1):
            if count or writing or state.left:
                yield from combinations(ready, count)

    def _advanced(self, state: _State, started: tuple[int, ...]) -> _State:
        """The moment of the next end of a line or a part."""
        left = {**dict(state.left), **{number: self._work.parts[number] for number in started}}
        writing = state.lines < len(self._plan.nodes)
        steps = min([*left.values(), *([state.line_left] if writing else [])])
        now_s = state.now_s + steps * self._step_time.of(len(left) + int(writing))
        ended = [number for number, tokens in left.items() if tokens == steps]
        rest = tuple(sorted((number, tokens - steps) for number, tokens in left.items() if tokens > steps))
        lines, line_left = state.lines, state.line_left - steps if writing else 0
        if writing and line_left == 0:
            lines += 1
            line_left = self._work.lines[lines] if lines < len(self._plan.nodes) else 0
        return _State(now_s, rest, state.done.union(ended), lines, line_left)

    def _least_s(self, state: _State) -> float:
        """Seconds that are left at least: the longest chain at t(1), all tokens at the best t(b) / b."""
        left = dict(state.left)
        tokens = state.line_left + sum(self._work.lines[state.lines + 1 :]) + sum(left.values())
        longest, line = 0, state.line_left
        for place, node in enumerate(self._plan.nodes):
            if place > state.lines:
                line += self._work.lines[place]
            if node.id in state.done:
                continue
            own = left.get(node.id, self._work.parts[node.id])
            waits = line if place >= state.lines else 0
            longest = max(longest, waits + own + self._behind[node.id])
            tokens += 0 if node.id in left else self._work.parts[node.id]
        return max(longest * self._step_time.of(1), tokens * self._step_time.per_token(self._slots))
