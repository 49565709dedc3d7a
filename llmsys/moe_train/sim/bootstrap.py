"""A longer trace of the same kind: blocks of ticks drawn from a real one, with the gaps between them.

A block bootstrap keeps bursts together: nodes that a provider takes at once stay taken at once. Who comes and goes is
numbered anew. Knows no format.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from llmsys.moe_train.sim.traces import Tick

__all__ = ["extend_trace"]


def extend_trace(ticks: Sequence[Tick], horizon_s: float, *, seed: int = 0) -> list[Tick]:
    """A trace of `horizon_s` seconds that starts as `ticks` does and goes on with blocks of about √n of its gaps.

    A tick brings as many nodes as its original did, up to the most that were there at once, and takes as many at
    random, as far as there are any. Raises ValueError for a trace with fewer than two ticks: it has no gap.
    """
    if len(ticks) < 2:
        raise ValueError(f"{len(ticks)} ticks; expected two or more to draw gaps from")
    changes = [(after.t_s - before.t_s, len(after.joined), len(after.left)) for before, after in pairwise(ticks)]
    if not any(gap > 0 for gap, _, _ in changes):
        raise ValueError("all ticks at one time; expected a trace that lasts")
    most, size = _most_at_once(ticks), max(1, math.isqrt(len(changes)))
    rng = np.random.default_rng(seed)
    alive, born = list(ticks[0].joined), max(ticks[0].joined, default=-1) + 1
    now, found = ticks[0].t_s, [ticks[0]]
    while True:
        start = int(rng.integers(len(changes)))
        for gap, come, go in (changes[(start + step) % len(changes)] for step in range(size)):
            now += gap
            if now > horizon_s:
                return found
            places = set(rng.choice(len(alive), min(go, len(alive)), replace=False).tolist())
            left = [node for place, node in enumerate(alive) if place in places]
            alive = [node for place, node in enumerate(alive) if place not in places]
            joined = list(range(born, born + min(come, most - len(alive))))
            born += len(joined)
            alive += joined
            if left or joined:
                found.append(Tick(now, tuple(joined), tuple(left)))


def _most_at_once(ticks: Sequence[Tick]) -> int:
    present = most = 0
    for tick in ticks:
        present += len(tick.joined) - len(tick.left)
        most = max(most, present)
    return most
