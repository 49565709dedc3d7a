"""What may enter an index: ids, tenants and vectors, judged before anything is logged. Knows no files."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from llmsys.errors import BadInput
from llmsys.vindex.faults import NotFound
from llmsys.vindex.slot_store import Id, SlotStore

__all__ = ["Access", "check_access", "check_ids", "check_tenant", "present_ids"]

Access = Sequence[Iterable[str]] | Mapping[Id, Iterable[str]]
MAX_NAME_BYTES = 512


def check_tenant(name: str) -> str:
    """The name itself. Raises BadInput where it is empty, over 512 bytes or holds control characters."""
    fits = 0 < len(name.encode("utf-8", "surrogatepass")) <= MAX_NAME_BYTES and name.isprintable()
    if not fits:
        raise BadInput(f"tenant {name[:40]!r}", "not a name", f"1 to {MAX_NAME_BYTES} bytes, no control characters")
    return name


def check_ids(ids: Sequence[Id] | NDArray[Any] | None, count: int, like: type[Id] | None = None) -> list[Id]:
    """Ids of `count` vectors, 0, 1, 2 … where none are given; all integers or all text, of the type `like` if said.

    Raises BadInput for a wrong number, another type, an integer outside 64 bits, and an id twice.
    """
    given: list[Id] = list(range(count)) if ids is None else [_plain(one) for one in ids]
    if len(given) != count:
        raise BadInput("ids", f"{len(given)} ids for {count} vectors", "one for each")
    expected = like or (type(given[0]) if given else int)
    seen = set()
    for one in given:
        if type(one) is not expected:
            raise BadInput("ids", f"id {one!r}", f"an id of type {expected.__name__}, as the others")
        if isinstance(one, int) and not -(2**63) <= one < 2**63:
            raise BadInput("ids", f"id {one}", "64 bits")
        if isinstance(one, str):
            check_tenant(one)
        if one in seen:
            raise BadInput("ids", f"id {one!r} a second time", "an id of its own for every vector")
        seen.add(one)
    return given


def check_access(access: Access | None, ids: Sequence[Id]) -> list[list[str]]:
    """The tenants of each id, without repeats; `access` is in the order of ids or by id.

    Raises BadInput for a wrong number or name, NotFound for an id that is not among them.
    """
    if access is None:
        return [[] for _ in ids]
    if isinstance(access, Mapping):
        unknown = set(access) - set(ids)
        if unknown:
            raise NotFound("access", f"no vector has the id {min(unknown, key=str)!r}", "ids of vectors")
        rows: list[Iterable[str]] = [access.get(one, ()) for one in ids]
    else:
        rows = list(access)
    if len(rows) != len(ids):
        raise BadInput("access", f"{len(rows)} lists of tenants for {len(ids)} vectors", "one for each")
    return [[check_tenant(name) for name in dict.fromkeys(names)] for names in rows]


def present_ids(store: SlotStore, ids: Iterable[Id], *, skip_missing: bool) -> tuple[list[Id], int]:
    """The ids that are there, once each, and how many are not. Raises NotFound for those unless they are skipped."""
    wanted = list(dict.fromkeys(_plain(one) for one in ids))
    there = [one for one in wanted if one in store.slot_of]
    if len(there) < len(wanted) and not skip_missing:
        first = next(one for one in wanted if one not in store.slot_of)
        raise NotFound(f"id {first!r}", "not in the index", "an id of the index")
    return there, len(wanted) - len(there)


def _plain(one: object) -> Id:
    """An id of Python: numpy's scalars become int."""
    value = one.item() if hasattr(one, "item") else one
    if not isinstance(value, int | str) or isinstance(value, bool):
        raise BadInput("ids", f"id {value!r}", "an integer or text")
    return value
