"""An index out to files that others read: arrays with ids, JSON Lines, or `Content`; always in the order of ids.

The order makes the bytes a function of the content alone. Under a tenant, no other tenant's name leaves.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from llmsys.artifacts import VectorRecord, encode, write_npy, write_vecs
from llmsys.vindex.content import Content
from llmsys.vindex.faults import NotFound
from llmsys.vindex.index import Index
from llmsys.vindex.search import visible
from llmsys.vindex.slot_store import Id
from llmsys.vindex.view_cache import ViewCache

__all__ = ["content_of", "export_arrays", "export_lines"]


def export_lines(index: Index, tenant: str | None, ids: Iterable[Id] | None) -> Iterator[VectorRecord]:
    """One record per vector: id, vector as stored, and who may see it (under a tenant: that tenant)."""
    state = index.state
    access = state.access() if tenant is None else None
    for slot in _slots(index, tenant, ids):
        names = [tenant] if access is None and tenant is not None else (access or [])[slot]
        vector = state.store.vectors[slot].astype(float).tolist()
        yield VectorRecord(state.store.name(slot), vector, tenants=tuple(names))


def export_arrays(index: Index, dest: Path, tenant: str | None, ids: Iterable[Id] | None, *, kind: str = "npy") -> int:
    """Write `vectors.npy` or `vectors.fvecs` [n, d], and `ids.npy` (`ids.jsonl` for text), into a directory.

    Returns n. `kind` is npy or fvecs.
    """
    slots = _slots(index, tenant, ids)
    names = index.state.store.names(slots)
    dest.mkdir(parents=True, exist_ok=True)
    rows = index.state.store.rows(slots)
    if kind == "npy":
        write_npy(dest / "vectors.npy", rows)
    else:
        write_vecs(dest / "vectors.fvecs", rows)
    if all(isinstance(one, int) for one in names):
        write_npy(dest / "ids.npy", np.array(names, np.int64))
    else:
        (dest / "ids.jsonl").write_bytes(b"".join(encode(one) for one in names))
    return len(slots)


def content_of(index: Index, tenant: str | None, ids: Iterable[Id] | None) -> Content:
    """What other stores' forms are written from."""
    slots, store = _slots(index, tenant, ids), index.state.store
    access = index.state.access() if tenant is None else None
    granted = [[tenant] if access is None and tenant is not None else (access or [])[slot] for slot in slots]
    return Content(store.rows(slots), store.names(slots), granted, store.metric)


def _slots(index: Index, tenant: str | None, ids: Iterable[Id] | None) -> list[int]:
    """The slots to write, in the order of their ids. Raises NotFound for an id that the tenant does not see."""
    store = index.state.store
    seen = visible(index.state, tenant, None, ViewCache())
    slots: list[int] = [] if seen is None else seen.members().tolist()
    if ids is not None:
        allowed, slots = set(slots), []
        for one in dict.fromkeys(ids):
            if store.slot_of.get(one, -1) not in allowed:
                raise NotFound(f"id {one!r}", "not in the index", "an id of the index")
            slots.append(store.slot_of[one])
    return sorted(slots, key=store.name)
