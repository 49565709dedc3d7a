"""From loose items to a plan that is a graph: the rules R2 to R10, each application of which is told.

R2 a number that was given before: renumbered, or dropped where the title is the same. R3 numbers become 1..n in order
of appearance. R4, R5 needs on unknown parts and on oneself are dropped. R6, R7 a need on a later part is dropped where
it would close a cycle, else the part moves behind what it needs. R8 levels are mapped to 1..5. R9 what comes after the
largest number of parts is merged into the last. R10 a part without a title is dropped and its edges are spliced.
R1 (text around the items is ignored) is told of what the reader saw, R11 is `Plan.reduced`, R12 the decoder's. Knows
nothing of text forms.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from llmsys.sgd_decode.plan import Node, Plan, clean_title
from llmsys.sgd_decode.plan_items import Item, read_items
from llmsys.sgd_decode.plan_levels import level_of

__all__ = ["MAX_NODES", "parse_plan", "repair"]

MAX_NODES = 10
TOLD = 32
"""Applications of rules that are listed; hostile text must not make the list long."""


@dataclass(slots=True)
class _Part:
    """An item on its way into the plan; `needs` are places in the list of parts."""

    title: str
    needs: list[int]
    level: int


class _Log:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def tell(self, rule: str, what: str) -> None:
        if len(self.lines) < TOLD:
            self.lines.append(f"{rule}:{what}")


def parse_plan(text: str, *, max_nodes: int = MAX_NODES) -> Plan:
    """Read a plan from any text: a graph, or no parts for an answer in one piece. Never raises for text.

    >>> [(node.id, node.needs) for node in parse_plan("1. A | needs 2 | level 2\\n2. B | needs - | level 1").nodes]
    [(1, ()), (2, (1,))]
    """
    reading = read_items(text)
    plan = repair(reading.items, max_nodes=max_nodes)
    if not plan.nodes or not reading.loose:
        return plan
    return replace(plan, repairs=(f"R1:{reading.loose} lines that are no part, ignored", *plan.repairs))


def repair(items: Sequence[Item], *, max_nodes: int = MAX_NODES) -> Plan:
    """Make items a plan: parts 1..n in topological line order. Time is linear in items, quadratic in `max_nodes`."""
    if max_nodes < 1:
        raise ValueError(f"max_nodes is {max_nodes}; expected 1 or more")
    log = _Log()
    parts = _numbered_parts(items, log)
    parts = _without_empty(parts, max_nodes, log)
    parts = _merged_tail(parts, max_nodes, log)
    parts = _acyclic(parts, log)
    nodes = _in_order(parts, log)
    return Plan(nodes, tuple(log.lines))


def _numbered_parts(items: Sequence[Item], log: _Log) -> list[_Part]:
    """R2, R3, R4, R5 and R8."""
    kept: list[Item] = []
    place_of: dict[int, int] = {}
    titles: dict[int, str] = {}
    for item in items:
        title = clean_title(item.title)
        if item.id is not None and item.id in place_of:
            log.tell("R2", f"{item.id} again, {'dropped' if titles[item.id] == title else 'renumbered'}")
            if titles[item.id] == title:
                continue
        elif item.id is not None:
            place_of[item.id], titles[item.id] = len(kept), title
        kept.append(replace(item, title=title))
    for item, place in zip(kept, range(len(kept)), strict=True):
        if item.id is None:
            place_of.setdefault(place + 1, place)
    if any(item.id is not None and item.id != place + 1 for place, item in enumerate(kept)):
        log.tell("R3", "renumbered")
    return [_part(item, place, place_of, log) for place, item in enumerate(kept)]


def _part(item: Item, place: int, place_of: dict[int, int], log: _Log) -> _Part:
    needs: list[int] = []
    for need in item.needs:
        target = place_of.get(need)
        if target is None:
            log.tell("R4", f"{place + 1}->{need} unknown, dropped")
        elif target == place:
            log.tell("R5", f"{place + 1}->{need} itself, dropped")
        elif target not in needs:
            needs.append(target)
    level, as_written = level_of(item.level)
    if not as_written:
        log.tell("R8", f"{place + 1} level {str(item.level)[:20]!r} read as {level}")
    return _Part(item.title, sorted(needs), level)


def _without_empty(parts: list[_Part], max_nodes: int, log: _Log) -> list[_Part]:
    """R10: parents of a part without a title become parents of its children.

    What R9 will merge counts as one part already, so that no set of parents passes `max_nodes`.
    """
    empty = {place for place, part in enumerate(parts) if not part.title}
    if not empty:
        return parts
    log.tell("R10", f"{len(empty)} without a title, dropped")
    places = [place for place in range(len(parts)) if place not in empty]
    new_place = {place: min(at, max_nodes - 1) for at, place in enumerate(places)}
    inherited: dict[int, set[int]] = {}

    def parents(place: int) -> set[int]:
        found: set[int] = set()
        for need in parts[place].needs:
            found |= inherited.get(need, set()) if need in empty else {new_place[need]}
        return found

    for place in sorted(empty):
        inherited[place] = parents(place)
    return [replace(parts[place], needs=sorted(parents(place) - {new_place[place]})) for place in places]


def _merged_tail(parts: list[_Part], max_nodes: int, log: _Log) -> list[_Part]:
    """R9: parts beyond `max_nodes` become part of the last one, which takes over what they need."""
    if len(parts) <= max_nodes:
        return parts
    log.tell("R9", f"{len(parts) - max_nodes} beyond {max_nodes} merged into the last")
    last = max_nodes - 1
    tail = parts[last:]
    title = clean_title("; ".join(part.title for part in tail[:4]))
    needs = {need for part in tail for need in part.needs if need < last}
    merged = _Part(title, sorted(needs), max(part.level for part in tail))
    head = [replace(part, needs=sorted({min(need, last) for need in part.needs})) for part in parts[:last]]
    return [*head, merged]


def _acyclic(parts: list[_Part], log: _Log) -> list[_Part]:
    """R6 and R7: needs on earlier parts stand; one on a later part only where that part does not need this one."""
    reach: list[set[int]] = []
    for place, part in enumerate(parts):
        backward = {need for need in part.needs if need < place}
        reach.append(backward.union(*(reach[need] for need in backward)))
    kept = [replace(part, needs=[need for need in part.needs if need < place]) for place, part in enumerate(parts)]
    for place, part in enumerate(parts):
        for need in (need for need in part.needs if need > place):
            if place in reach[need]:
                log.tell("R6", f"{place + 1}->{need + 1} closes a cycle, dropped")
                continue
            kept[place].needs.append(need)
            added = reach[need] | {need}
            for other in range(len(reach)):
                if other == place or place in reach[other]:
                    reach[other] |= added
    return kept


def _in_order(parts: list[_Part], log: _Log) -> tuple[Node, ...]:
    """Parts numbered so that needs come first: the order of lines, a part moving only behind what it needs."""
    order: list[int] = []
    done: set[int] = set()
    waiting = list(range(len(parts)))
    while waiting:
        place = next(place for place in waiting if done.issuperset(parts[place].needs))
        waiting.remove(place)
        order.append(place)
        done.add(place)
    for at, place in enumerate(order):
        if any(need > place for need in parts[place].needs):
            log.tell("R6", f"{place + 1} moved to {at + 1}, behind what it needs")
    number = {place: at + 1 for at, place in enumerate(order)}
    needs = {place: tuple(sorted(number[need] for need in parts[place].needs)) for place in order}
    return tuple(Node(number[at], parts[at].title, needs[at], parts[at].level) for at in order)
