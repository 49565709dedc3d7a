"""A snapshot: the state of an index as a directory of `.npy` files under checksums, opened by memory-mapping.

What the loops index with is checked against its bounds at every opening; checksums of all bytes on request. Knows
neither the log nor who may write.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from llmsys.artifacts import open_directory, read_npy, write_directory, write_npy
from llmsys.errors import BadInput
from llmsys.vindex.arrays import I32, I64, Stored
from llmsys.vindex.cluster_tree import ClusterTree, TreeShape
from llmsys.vindex.codes import row_bytes
from llmsys.vindex.faults import Corrupt
from llmsys.vindex.metric import METRICS, NUMBERS
from llmsys.vindex.slot_store import Id, SlotStore
from llmsys.vindex.state import State
from llmsys.vindex.tenant_list import TenantList

__all__ = ["DERIVED", "KIND", "Granted", "read_granted", "read_snapshot", "write_snapshot"]

KIND = "vindex-snapshot"
VERSION = 3
STORE = ("vectors", "codes", "leaf")
TREE = ("centroids", "first_child", "children", "leaf_start", "leaf_end")


DERIVED = ("codes", "leaf", "mean", *TREE)


class Names(msgspec.Struct, frozen=True):
    """What is no array: the metric, the shape of trees, the number of the last operation, and all names."""

    metric: str
    seq: int
    shape: tuple[int, int, int]
    tenants: list[str]
    ids: list[str]


@dataclass(frozen=True, slots=True, eq=False)
class Granted:
    """What no other part of a snapshot says: names, vectors [n, d], ids, and the slots of each tenant."""

    names: Names
    vectors: Stored
    ids: I64 | list[str]
    lists: dict[str, I32]

    def name(self, slot: int) -> Id:
        """The id of a slot."""
        return self.ids[slot] if isinstance(self.ids, list) else self.ids.item(slot)


def write_snapshot(path: Path, state: State) -> None:
    """Write a compacted state (see `state.compacted`) as a directory that appears whole or not at all."""
    store, clusters, shape = state.store, state.clusters, state.shape
    lists = [found.slots for found in state.lists.values()]
    arrays: dict[str, NDArray[Any]] = {name: getattr(store, name)[: store.used] for name in STORE}
    arrays |= {name: getattr(clusters, name) for name in TREE} | {"mean": store.mean}
    arrays["lists"] = np.concatenate([*lists, np.zeros(0, np.int32)]).astype(np.int32)
    arrays["list_ends"] = np.cumsum([len(slots) for slots in lists], dtype=np.int64)
    if not isinstance(store.ids, list):
        arrays["ids"] = store.ids[: store.used]
    sizes = (shape.branching, shape.max_leaf, shape.max_shortlist)
    names = Names(store.metric, state.seq, sizes, list(state.lists), store.ids if isinstance(store.ids, list) else [])
    with write_directory(path, kind=KIND, version=VERSION) as place:
        for name, array in arrays.items():
            write_npy(place / f"{name}.npy", np.ascontiguousarray(array))
        (place / "names.json").write_bytes(msgspec.json.encode(names))


def read_snapshot(path: Path, *, verify: bool) -> State:
    """The state of a snapshot; `verify` reads all bytes against their checksums.

    Raises BadInput or Corrupt that names the file which is not what was written.
    """
    manifest = open_directory(path, kind=KIND, version=VERSION, verify=verify)
    if manifest.version != VERSION:
        raise BadInput(str(path), f"version {manifest.version}", f"version {VERSION}: export it and build it anew")
    granted = read_granted(path)
    names, (count, dim) = granted.names, granted.vectors.shape
    clusters = _clusters(path, dim)
    store = SlotStore(
        metric=names.metric,
        mean=_array(path, "mean", np.float32, 1, (dim,)),
        vectors=granted.vectors,
        codes=_array(path, "codes", np.uint8, 2, (count, row_bytes(dim))),
        leaf=_array(path, "leaf", np.int32, 1, (count,)),
        alive=np.ones(count, np.bool_),
        ids=granted.ids,
        used=count,
    )
    _demand(path, "leaf", _within(store.leaf, 0, clusters.leaves))
    lists = {name: TenantList(slots) for name, slots in granted.lists.items()}
    return State(TreeShape(*names.shape), clusters, store, lists, names.seq)


def read_granted(path: Path) -> Granted:
    """What cannot be made anew, checked against itself alone. Raises BadInput and Corrupt as `read_snapshot` does."""
    try:
        names = msgspec.json.decode((path / "names.json").read_bytes(), type=Names)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Corrupt(str(path / "names.json"), str(error), "what llmsys wrote") from error
    if names.metric not in METRICS or min(names.shape) < 1 or names.seq < 0:
        raise Corrupt(str(path / "names.json"), "parameters out of range", "what llmsys wrote")
    vectors = _array(path, "vectors", np.floating, 2)
    _demand(path, "vectors", vectors.dtype in NUMBERS.values())
    ids = names.ids or _array(path, "ids", np.int64, 1)
    _demand(path, "ids", len(ids) == len(vectors))
    return Granted(names, vectors, ids, _lists(path, names.tenants, len(vectors)))


def _array(path: Path, name: str, dtype: type, ndim: int, shape: tuple[int, ...] | None = None) -> NDArray[Any]:
    try:
        array = read_npy(path / f"{name}.npy")
    except FileNotFoundError as error:
        raise BadInput(str(path / f"{name}.npy"), "missing", "every array of a snapshot") from error
    fits = np.issubdtype(array.dtype, dtype) and array.ndim == ndim and (shape is None or array.shape == shape)
    _demand(path, name, fits)
    return array.view(np.ndarray)


def _clusters(path: Path, dim: int) -> ClusterTree:
    centroids = _array(path, "centroids", np.float32, 2)
    nodes = len(centroids)
    tree = ClusterTree(centroids, *(_array(path, name, np.int32, 1, (nodes,)) for name in TREE[1:]))
    inner = tree.children > 0
    after = np.flatnonzero(inner) < tree.first_child[inner]  # children come later: no walk can run in circles
    inside = tree.first_child[inner].astype(np.int64) + tree.children[inner] <= nodes
    sound = nodes > 0 and centroids.shape[1] == dim and _within(tree.children, 0, nodes)
    _demand(path, "first_child", bool(sound and after.all() and inside.all()))
    return tree


def _lists(path: Path, tenants: list[str], count: int) -> dict[str, I32]:
    slots = _array(path, "lists", np.int32, 1)
    ends = _array(path, "list_ends", np.int64, 1, (len(tenants),))
    starts = np.concatenate([np.zeros(1, np.int64), ends])[: len(ends)]
    whole = bool((ends >= starts).all()) and (int(ends[-1]) if len(ends) else 0) == len(slots)
    _demand(path, "lists", whole and _within(slots, 0, count))
    spans = zip(tenants, starts.tolist(), ends.tolist(), strict=True)
    return {name: slots[start:end] for name, start, end in spans}


def _within(values: I32, low: int, high: int) -> bool:
    return not len(values) or (low <= int(values.min()) and int(values.max()) < high)


def _demand(path: Path, name: str, sound: bool) -> None:
    if not sound:
        raise Corrupt(str(path / f"{name}.npy"), "numbers that do not fit the other arrays", "what llmsys wrote")
