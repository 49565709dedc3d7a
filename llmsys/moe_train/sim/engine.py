"""One run of one policy through one trace: an event at a time, steps and checkpoints between events in closed form.

The engine keeps time; a policy decides what a change of members means. Knows no placement.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from llmsys.moe_train.sim.traces import Tick

__all__ = ["PHASES", "Change", "Pace", "Policy", "RunResult", "simulate_run"]

PHASES = ("compute", "ckpt", "restart", "reconfigure", "idle")
# a step that ends within rounding of an event has ended
ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Pace:
    """How work goes on: seconds of a step, samples that it brings, steps between checkpoints, seconds of one."""

    step_s: float
    batch: int
    ckpt_every: int
    ckpt_s: float


@dataclass(frozen=True, slots=True)
class Change:
    """A policy's answer to a change: who works from now on, in which order, after which pause.

    `kind` is a phase: `restart`, `reconfigure`, `idle` (nothing can work: `layout` is empty) or `compute` (nothing
    happens, the step goes on). `rollback`: steps that are lost; None for all since the last checkpoint. `saved`: a
    checkpoint was taken within the pause.
    """

    layout: tuple[int, ...]
    kind: str
    pause_s: float = 0.0
    rollback: int | None = 0
    saved: bool = False


class Policy(Protocol):
    """What a system does when nodes come and go. `layout` is the order of working nodes that it chose itself."""

    @property
    def name(self) -> str: ...

    @property
    def note(self) -> str:
        """What this is a model of, and what was assumed."""

    @property
    def join_wait_s(self) -> float:
        """How long newcomers are collected before they join."""

    def start(self, alive: Sequence[int]) -> Change:
        """Who works at the very beginning, or after nothing could work: then with the pause of a restart."""

    def change(self, layout: tuple[int, ...], lost: frozenset[int], alive: Sequence[int]) -> Change:
        """What to do about the loss of `lost` (of the layout) or, where that is empty, about newcomers."""

    def pace(self, layout: tuple[int, ...]) -> Pace:
        """How fast a layout works."""


@dataclass(slots=True)
class RunResult:
    """What a run came to. `samples` counts committed steps; `lost_steps` were done and undone; `breakdown` sums to the
    horizon; `timeline` holds (seconds, working nodes, samples) at every event.
    """

    samples: int = 0
    steps: int = 0
    restarts: int = 0
    reconfigures: int = 0
    lost_steps: int = 0
    events: int = 0
    breakdown: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))
    timeline: list[tuple[float, int, int]] = field(default_factory=list)


def simulate_run(policy: Policy, ticks: Sequence[Tick], horizon_s: float, *, most: int | None = None) -> RunResult:
    """Run `policy` for `horizon_s` seconds on at most `most` nodes at once; more wait as spares, oldest first."""
    run = _Run(policy, most)
    for tick in ticks:
        if tick.t_s >= horizon_s:
            break
        run.until(tick.t_s)
        run.tick(tick)
    run.until(horizon_s)
    return run.result


class _Run:
    def __init__(self, policy: Policy, most: int | None) -> None:
        self.result = RunResult()
        self._policy = policy
        self._most = most
        self._now = 0.0
        self._present: dict[int, None] = {}
        self._layout: tuple[int, ...] = ()
        self._pace: Pace | None = None
        self._phase = "idle"
        self._resume = 0.0
        self._since = 0
        self._into = 0.0
        self._join_at = math.inf
        self._begun = False

    def until(self, t_s: float) -> None:
        """Let time pass, newcomers' waiting included."""
        while self._join_at <= t_s:
            self._pass(self._join_at)
            self._join_at = math.inf
            self._apply(self._policy.change(self._layout, frozenset(), self._eligible()))
        self._pass(t_s)

    def tick(self, tick: Tick) -> None:
        """Nodes come and go now."""
        self.result.events += len(tick.joined) + len(tick.left)
        for node in tick.left:
            self._present.pop(node, None)
        self._present.update(dict.fromkeys(tick.joined))
        lost = frozenset(self._layout).intersection(tick.left)
        if not self._layout:
            self._begin()
        elif lost:
            self._join_at = math.inf
            self._apply(self._policy.change(self._layout, lost, self._eligible()))
        elif set(self._eligible()) - set(self._layout):
            self._join_at = min(self._join_at, self._now + self._policy.join_wait_s)
        self.result.timeline.append((self._now, len(self._layout), self.result.samples))

    def _begin(self) -> None:
        change = self._policy.start(self._eligible())
        if not change.layout:
            return
        # the first start is the user's; after that nodes were missing, and a checkpoint is what is left
        self._apply(change if self._begun else Change(change.layout, "compute"))
        self._begun = True

    def _eligible(self) -> list[int]:
        """Who may work: those at work first, then the oldest spares."""
        working = [node for node in self._layout if node in self._present]
        at_work = set(working)
        spares = [node for node in self._present if node not in at_work]
        return (working + spares)[: self._most]

    def _apply(self, change: Change) -> None:
        if change.rollback is None:
            self._undo(self._since)
        elif change.rollback:
            self._undo(min(change.rollback, self._since))
        if change.saved:
            self._since = 0
        self._layout = change.layout
        if change.kind == "compute" and self._phase == "compute" and change.layout and self._pace is not None:
            self._settle_pace(keep_step=True)
            return
        self._settle_pace(keep_step=False)
        if change.kind in ("restart", "reconfigure"):
            self.result.restarts += change.kind == "restart"
            self.result.reconfigures += change.kind == "reconfigure"
            self._phase, self._resume = change.kind, self._now + change.pause_s
        else:
            self._phase = change.kind

    def _settle_pace(self, *, keep_step: bool) -> None:
        before, self._pace = self._pace, self._policy.pace(self._layout) if self._layout else None
        if not keep_step or before != self._pace:
            self._into = 0.0

    def _undo(self, steps: int) -> None:
        self.result.lost_steps += steps
        self.result.steps -= steps
        if self._pace is not None:
            self.result.samples -= steps * self._pace.batch
        self._since -= steps

    def _pass(self, t_s: float) -> None:
        if self._phase in ("restart", "reconfigure"):
            paused_until = min(t_s, self._resume)
            self.result.breakdown[self._phase] += paused_until - self._now
            self._now = paused_until
            if self._now < self._resume:
                return
            self._phase = "compute"
        if self._phase == "compute" and self._pace is not None:
            self._work(t_s - self._now, self._pace)
        else:
            self.result.breakdown["idle"] += t_s - self._now
        self._now = t_s

    def _work(self, seconds: float, pace: Pace) -> None:
        """Advance in the cycle of `ckpt_every` steps and a checkpoint; `_since` steps, `_into` seconds are behind."""
        steps_s = pace.ckpt_every * pace.step_s
        cycle = steps_s + pace.ckpt_s
        before = self._since * pace.step_s + self._into
        cycles, rest = divmod(before + seconds + ROUNDING, cycle)
        since = min(int(rest / pace.step_s), pace.ckpt_every)
        gained = int(cycles) * pace.ckpt_every + since - self._since
        saving = cycles * pace.ckpt_s + max(rest - steps_s, 0.0) - max(before - steps_s, 0.0)
        saving = min(max(saving, 0.0), seconds)
        self._since, self._into = since, max(rest - ROUNDING - since * pace.step_s, 0.0)
        self.result.steps += gained
        self.result.samples += gained * pace.batch
        self.result.breakdown["ckpt"] += saving
        self.result.breakdown["compute"] += seconds - saving
