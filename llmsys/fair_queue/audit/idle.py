"""Work conservation in an event log: the time in which every waiting request fitted and none was admitted.

A machine admits between steps: after an instant at which one ended, and when nothing runs. What fits is judged with
all final lengths reserved, so under rules that reserve less it is a lower bound; and because every request that waits
must fit, no policy's order excuses it. Knows no tenant and no cost.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmsys.fair_queue.audit.columns import ADMIT, ARRIVE, LEAVE, PREEMPT, TOKEN
from llmsys.gpu.compiled import compiled

__all__ = ["IDLE", "IDLE_S", "Room", "Watch", "new_watch", "observe", "pass_time"]

Floats = NDArray[np.float64]
# places in Watch.tally
IDLE, IDLE_S, IDLING, SINCE, OLDEST, NEWEST, RESERVED, WAITING, RUNNING, STEP_ENDED, ADMITTED = range(11)


class Room(NamedTuple):
    """need: tokens of each request at its longest. memory (0 if unknown) and max_batch (0 for no limit) of the machine,
    which admits every `admit_every` decode steps."""

    need: Floats
    memory: int
    max_batch: int
    admit_every: int


class Watch(NamedTuple):
    """Which requests wait; tally: IDLE stretches and IDLE_S seconds so far, whether one is on, steps SINCE the last
    admission, OLDEST and NEWEST request that may wait, tokens RESERVED, requests WAITING and RUNNING, and what the
    instant so far held."""

    waits: NDArray[np.bool_]
    tally: Floats


def new_watch(requests: int) -> Watch:
    """The state before the first event."""
    tally = np.zeros(11)
    tally[OLDEST], tally[NEWEST] = requests, -1
    return Watch(np.zeros(requests, np.bool_), tally)


@compiled
def observe(w: Watch, room: Room, kind: int, r: int, from_queue: bool) -> None:
    """Take in an event of request r; `from_queue` says of a LEAVE that r was waiting."""
    leaves = kind == LEAVE and not from_queue
    if kind in (ARRIVE, PREEMPT):
        w.waits[r] = True
        w.tally[WAITING] += 1
        w.tally[OLDEST] = min(w.tally[OLDEST], r)
        w.tally[NEWEST] = max(w.tally[NEWEST], r)
    if kind == ADMIT or (kind == LEAVE and from_queue):
        w.waits[r] = False
        w.tally[WAITING] -= 1
    if kind == ADMIT:
        w.tally[RESERVED] += room.need[r]
        w.tally[RUNNING] += 1
        w.tally[SINCE] = 0
        w.tally[ADMITTED] = 1
    elif kind == PREEMPT or leaves:
        w.tally[RESERVED] -= room.need[r]
        w.tally[RUNNING] -= 1
    if kind == TOKEN or leaves:
        w.tally[STEP_ENDED] = 1


@compiled
def _all_fit(w: Watch, room: Room) -> bool:
    """Whether each waiting request would fit next to those that run."""
    for r in range(int(w.tally[OLDEST]), int(w.tally[NEWEST]) + 1):
        if w.waits[r] and w.tally[RESERVED] + room.need[r] > room.memory:
            return False
        if not w.waits[r] and r == w.tally[OLDEST]:
            w.tally[OLDEST] += 1
    return True


@compiled
def pass_time(w: Watch, room: Room, seconds: float) -> None:
    """An instant is over, and `seconds` pass: is somebody kept waiting without need from here on?

    The first tokens, which a prefill gives, count as a step too, so one step more than `admit_every` may pass.
    """
    was_idling = w.tally[IDLING] > 0
    w.tally[SINCE] += w.tally[STEP_ENDED] * (1.0 - w.tally[ADMITTED])
    if w.tally[WAITING] == 0 or w.tally[ADMITTED] > 0:
        w.tally[IDLING] = 0
    elif w.tally[RUNNING] == 0:
        w.tally[IDLING] = 1
    elif w.tally[STEP_ENDED] > 0:
        due = w.tally[SINCE] > room.admit_every and (room.max_batch == 0 or w.tally[RUNNING] < room.max_batch)
        w.tally[IDLING] = 1 if due and room.memory > 0 and _all_fit(w, room) else 0
    w.tally[STEP_ENDED] = w.tally[ADMITTED] = 0
    if w.tally[IDLING] > 0:
        w.tally[IDLE] += 0 if was_idling else 1
        w.tally[IDLE_S] += seconds
