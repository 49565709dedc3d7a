"""Which nodes are there when: real availability traces of three formats, and failures drawn at random.

A trace is a list of ticks in order of time; nodes are numbers, new ones for machines that come back. Knows no policy.
"""

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
import numpy as np

from llmsys.artifacts import read_lines, source_name
from llmsys.errors import BadInput

__all__ = ["ARRIVALS", "VICTIMS", "Tick", "cut_trace", "draw_failures", "follow_counts", "read_availability"]

T = TypeVar("T")

VICTIMS = ("newest", "random")
ARRIVALS = ("fixed", "exponential")


@dataclass(frozen=True, slots=True)
class Tick:
    """At `t_s` seconds these nodes come and those are gone."""

    t_s: float
    joined: tuple[int, ...]
    left: tuple[int, ...]


class CountTrace(msgspec.Struct, frozen=True):
    """How many nodes there are, one number every `gap_seconds`."""

    class Metadata(msgspec.Struct, frozen=True):
        """The time between two numbers."""

        gap_seconds: Annotated[float, msgspec.Meta(gt=0)]

    metadata: Metadata
    data: Annotated[list[Annotated[int, msgspec.Meta(ge=0)]], msgspec.Meta(min_length=1)]


def read_availability(path: Path, *, victims: str = "newest", seed: int = 0) -> list[Tick]:
    """The ticks of a trace: Bamboo's CSV (`milliseconds,add|remove,node`), GCP counts (`date, time, count`) by the
    ending .txt, or JSON (`{"metadata": {"gap_seconds"}, "data": [counts]}`) by .json.

    Where only counts are known, `victims` says who leaves: the newest, or any at random. Raises BadInput at FILE:LINE.
    """
    if path.suffix == ".json":
        return follow_counts(_json_counts(path), victims=victims, seed=seed)
    if path.suffix == ".txt":
        return follow_counts(_dated_counts(path), victims=victims, seed=seed)
    return _named_nodes(path)


def follow_counts(counts: Sequence[tuple[float, int]], *, victims: str = "newest", seed: int = 0) -> list[Tick]:
    """Ticks of numbered nodes from (seconds, count) pairs in order of time. Raises ValueError for unknown `victims`."""
    if victims not in VICTIMS:
        raise ValueError(f"victims {victims!r}; expected one of {', '.join(VICTIMS)}")
    rng = np.random.default_rng(seed)
    alive: list[int] = []
    ticks, born = list[Tick](), 0
    for t_s, count in counts:
        gone = max(len(alive) - count, 0)
        places = (
            sorted(rng.choice(len(alive), gone, replace=False)) if victims == "random" else range(count, len(alive))
        )
        left = [alive[place] for place in places] if gone else []
        joined = list(range(born, born + max(count - len(alive), 0)))
        born += len(joined)
        alive = [node for node in alive if node not in left] + joined
        if left or joined:
            ticks.append(Tick(t_s, tuple(joined), tuple(left)))
    return ticks


def cut_trace(ticks: Sequence[Tick], start_s: float, horizon_s: float) -> list[Tick]:
    """The ticks from `start_s` on for `horizon_s` seconds, times from 0; who is there at the start joins at 0."""
    alive: list[int] = []
    kept: list[Tick] = []
    for tick in ticks:
        if tick.t_s <= start_s:
            alive = [node for node in [*alive, *tick.joined] if node not in tick.left]
        elif tick.t_s <= start_s + horizon_s:
            kept.append(Tick(tick.t_s - start_s, tick.joined, tick.left))
    return [Tick(0.0, tuple(alive), ()), *kept]


def draw_failures(
    nodes: int,
    mtbf_s: float,
    horizon_s: float,
    *,
    arrivals: str = "exponential",
    replace_after_s: float = math.inf,
    seed: int = 0,
) -> list[Tick]:
    """`nodes` nodes from the start, of which any one dies every `mtbf_s` seconds: exactly (`fixed`) or on average
    (`exponential`); a new node takes its place `replace_after_s` later. Raises ValueError for other arrivals.
    """
    if arrivals not in ARRIVALS:
        raise ValueError(f"arrivals {arrivals!r}; expected one of {', '.join(ARRIVALS)}")
    rng = np.random.default_rng(seed)
    alive, born = list(range(nodes)), nodes
    ticks = [Tick(0.0, tuple(alive), ())]
    replacements: list[float] = []
    fails_at = mtbf_s if arrivals == "fixed" else float(rng.exponential(mtbf_s))
    while (now := min(fails_at, replacements[0] if replacements else math.inf)) <= horizon_s:
        if replacements and now == replacements[0]:
            replacements.pop(0)
            alive.append(born)
            ticks.append(Tick(now, (born,), ()))
            born += 1
            continue
        if alive:
            victim = alive.pop(int(rng.integers(len(alive))))
            ticks.append(Tick(now, (), (victim,)))
            replacements += [now + replace_after_s] if math.isfinite(replace_after_s) else []
        fails_at = now + (mtbf_s if arrivals == "fixed" else float(rng.exponential(mtbf_s)))
    return ticks


def _named_nodes(path: Path) -> list[Tick]:
    """Bamboo's CSV; a machine that was removed and comes again is a new node."""
    alive: dict[str, int] = {}
    ticks: list[tuple[float, list[int], list[int]]] = []
    born = 0
    for number, row in _rows(path, 3):
        where, (time, verb, name) = f"{source_name(path)}:{number}", row
        if not time.isdigit() or verb not in ("add", "remove"):
            raise BadInput(where, f"{','.join(row)!r}", "milliseconds,add|remove,node")
        t_s = int(time) / 1000
        if ticks and t_s < ticks[-1][0]:
            raise BadInput(where, f"{time} ms after {ticks[-1][0] * 1000:.0f} ms", "lines in order of time")
        if (verb == "add") == (name in alive):
            raise BadInput(where, f"{verb} {name}", "a node that is there to leave, or not there to come")
        if not ticks or t_s > ticks[-1][0]:
            ticks.append((t_s, [], []))
        if verb == "add":
            alive[name] = born
            ticks[-1][1].append(born)
            born += 1
        else:
            ticks[-1][2].append(alive.pop(name))
    return [_net(*tick) for tick in _not_empty(path, ticks)]


def _net(t_s: float, joined: Sequence[int], left: Sequence[int]) -> Tick:
    """A node that comes and goes within one tick was never there."""
    brief = set(joined) & set(left)
    return Tick(t_s, tuple(n for n in joined if n not in brief), tuple(n for n in left if n not in brief))


def _dated_counts(path: Path) -> list[tuple[float, int]]:
    found: list[tuple[float, int]] = []
    start: datetime | None = None
    for number, (day, time, count) in _rows(path, 3):
        where = f"{source_name(path)}:{number}"
        try:
            now, nodes = datetime.fromisoformat(f"{day}T{time}"), int(count)
        except ValueError:
            now, nodes = datetime.min, -1
        if nodes < 0:
            raise BadInput(
                where, f"{day}, {time}, {count!r}", "a date, a time and a count, as 2021-12-11, 11:11:30, 55"
            )
        start = start or now
        t_s = (now - start).total_seconds()
        if found and t_s < found[-1][0]:
            raise BadInput(where, f"{time} before the line above", "lines in order of time")
        found.append((t_s, nodes))
    return _not_empty(path, found)


def _json_counts(path: Path) -> list[tuple[float, int]]:
    try:
        trace = msgspec.json.decode(path.read_bytes(), type=CountTrace)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        right = 'an object as {"metadata": {"gap_seconds": 300}, "data": [16, 16, 15]}'
        raise BadInput(str(path), str(error), right) from error
    return [(step * trace.metadata.gap_seconds, count) for step, count in enumerate(trace.data)]


def _rows(path: Path, width: int) -> Iterator[tuple[int, list[str]]]:
    for number, line in read_lines(path):
        if not line.strip():
            continue
        try:
            (row,) = csv.reader([line.decode()])
        except (UnicodeDecodeError, csv.Error, ValueError) as error:
            raise BadInput(f"{source_name(path)}:{number}", str(error), "a line of text") from error
        if len(row) != width:
            raise BadInput(f"{source_name(path)}:{number}", f"{len(row)} fields", f"{width}, separated by commas")
        yield number, [cell.strip() for cell in row]


def _not_empty(path: Path, found: list[T]) -> list[T]:
    if not found:
        raise BadInput(source_name(path), "no line", "a trace of at least one")
    return found
