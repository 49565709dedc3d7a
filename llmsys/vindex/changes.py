"""A mixed stream of changes, one JSON line each, acknowledged once durable.

Lines that have arrived while the last group was synced form the next group: one sync for all of them, none delayed by
a timer. Knows no command line.
"""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Literal, TypeVar

import msgspec
import numpy as np

from llmsys.artifacts import decode_record, read_lines
from llmsys.errors import BadInput
from llmsys.vindex.index import Index
from llmsys.vindex.slot_store import Id

__all__ = ["Acknowledged", "ChangeRecord", "apply_changes", "make_change"]

MOST_WAITING = 4096

T = TypeVar("T")


class ChangeRecord(msgspec.Struct, frozen=True):
    """One change: `add` takes id, vector and tenants; the others id or ids, and grant, revoke, drop_tenant a tenant."""

    op: Literal["add", "delete", "grant", "revoke", "drop_tenant"]
    id: Id | None = None
    ids: list[Id] | None = None
    vector: list[float] | None = None
    tenant: str | None = None
    tenants: list[str] | None = None
    ref: Id | None = None


class Acknowledged(msgspec.Struct, frozen=True, omit_defaults=True):
    """The number of the last operation once a change was made durable, and the change's own `ref`.

    changes: how many a batch made durable, whose last one's `ref` this is; 0 for a single change.
    """

    seq: int
    ref: Id | None = None
    changes: int = 0


def apply_changes(
    index: Index, source: str, *, each: bool = True, on_skip: Callable[[BadInput], None] | None = None
) -> Iterator[Acknowledged]:
    """Apply the lines of a file, or of stdin for `-`, and yield an acknowledgement for each once it is durable.

    Without `each` there is one for all lines that one sync made durable.

    An `add` of an id that is there replaces it. A line that does not fit raises BadInput at FILE:LINE, after everything
    before it was acknowledged; with `on_skip` it goes there, and the stream goes on.
    """
    decoder = msgspec.json.Decoder(ChangeRecord)
    for group in _groups(source):
        done: list[Acknowledged] = []
        fault: BaseException | None = None
        with index.batch():
            for item in group:
                if isinstance(item, BaseException):
                    fault = item
                    break
                number, line = item
                where = f"{'<stdin>' if source == '-' else source}:{number}"
                try:
                    change = decode_record(line, decoder, where)
                    make_change(index, change, where)
                except BadInput as error:
                    placed = error if error.where == where else BadInput(where, *_said(error))
                    if on_skip is None:
                        fault = placed
                        break
                    on_skip(placed)
                    continue
                done.append(Acknowledged(index.seq, change.ref))
        if each:
            yield from done
        elif done:
            yield Acknowledged(done[-1].seq, done[-1].ref, len(done))
        if fault is not None:
            raise fault


Item = tuple[int, bytes] | BaseException


def _groups(source: str) -> Iterator[list[Item]]:
    """What has arrived since the last group, at least one line; a fault of reading comes as the last item."""
    arrived: queue.Queue[Item | None] = queue.Queue(MOST_WAITING)

    def read() -> None:
        try:
            for number, line in read_lines(source):
                if line.strip():
                    arrived.put((number, line))
        except (OSError, BadInput) as error:
            arrived.put(error)
        arrived.put(None)

    threading.Thread(target=read, daemon=True).start()
    while True:
        group: list[Item] = []
        item = arrived.get()
        while item is not None:
            group.append(item)
            if len(group) >= MOST_WAITING or arrived.empty():
                break
            item = arrived.get()
        if group:
            yield group
        if item is None:
            return


def _said(error: BadInput) -> tuple[str, str]:
    return f"{error.where} {error.wrong}", error.right


def make_change(index: Index, change: ChangeRecord, where: str) -> None:
    """Make one change. Raises BadInput, at `where` for what the change lacks."""
    ids = [change.id] if change.id is not None else change.ids or []
    if change.op == "drop_tenant":
        index.drop_tenant(_needed(change.tenant, "tenant", where))
        return
    if not ids:
        raise BadInput(where, f"{change.op} without `id` or `ids`", "the vectors that it is about")
    match change.op:
        case "add":
            numbers = _needed(change.vector, "vector", where)
            access = None if change.tenants is None else [change.tenants]
            index.add(np.array([numbers]), ids, access, upsert=True)
        case "delete":
            index.delete(ids)
        case "grant":
            index.grant(ids, _needed(change.tenant, "tenant", where))
        case "revoke":
            index.revoke(ids, _needed(change.tenant, "tenant", where))


def _needed(value: T | None, name: str, where: str) -> T:
    if value is None:
        raise BadInput(where, f"no `{name}`", f"a change with `{name}`")
    return value
