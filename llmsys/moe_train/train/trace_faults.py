"""An availability trace as a fault list: nodes that leave are killed, nodes that come are added, by the clock.

Workers are numbered as a run numbers them: from 0, in the order of their coming. Knows no supervisor.
"""

from collections.abc import Sequence
from pathlib import Path

from llmsys.moe_train.sim.traces import Tick, read_availability

__all__ = ["follow_ticks", "trace_faults"]


def trace_faults(path: Path, *, workers: int, speedup: float) -> str:
    """The fault list of a trace file for a run of `workers`, `speedup` times as fast as it was.

    Raises BadInput as `read_availability`.
    """
    return follow_ticks(read_availability(path), workers=workers, speedup=speedup)


def follow_ticks(ticks: Sequence[Tick], *, workers: int, speedup: float) -> str:
    """Begin where `workers` nodes are there first, or the most that ever are; at most `workers` work at once, and
    others wait until one of them leaves.

    >>> follow_ticks([Tick(9.0, (1, 2), ()), Tick(69.0, (3,), ()), Tick(129.0, (4,), (2,))], workers=2, speedup=60)
    't=2.000:kill:1;t=2.000:add:1'
    """
    begin = _first_full(ticks, workers)
    there = _alive(ticks[: begin + 1])
    working = {node: number for number, node in enumerate(there[:workers])}
    waiting, born = there[workers:], workers
    entries = []
    for tick in ticks[begin + 1 :]:
        at = f"t={(tick.t_s - ticks[begin].t_s) / speedup:.3f}"
        gone = [working.pop(node) for node in tick.left if node in working]
        waiting = [node for node in [*waiting, *tick.joined] if node not in tick.left]
        coming, waiting = waiting[: workers - len(working)], waiting[workers - len(working) :]
        working |= {node: born + number for number, node in enumerate(coming)}
        born += len(coming)
        entries += [f"{at}:kill:{'+'.join(map(str, gone))}"] if gone else []
        entries += [f"{at}:add:{len(coming)}"] if coming else []
    return ";".join(entries)


def _alive(ticks: Sequence[Tick]) -> list[int]:
    alive: list[int] = []
    for tick in ticks:
        alive = [node for node in [*alive, *tick.joined] if node not in tick.left]
    return alive


def _first_full(ticks: Sequence[Tick], workers: int) -> int:
    """The first tick with `workers` nodes, or with the most there are."""
    counts, count = [], 0
    for tick in ticks:
        count += len(tick.joined) - len(tick.left)
        counts.append(count)
    return next(place for place, found in enumerate(counts) if found >= min(workers, max(counts)))
