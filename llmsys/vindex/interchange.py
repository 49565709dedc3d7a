"""An index to and from the files of other stores: Parquet, LanceDB, Qdrant, pgvector, Milvus, faiss.

Every form keeps ids, vectors as stored, and tenants, in the order of ids; `read` takes back what `write` wrote. What a
store cannot hold (text ids in Qdrant, tenants in faiss) stands beside, as that store's users would put it. Knows
neither the index's files nor searching.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from llmsys.artifacts import encode, read_lines, replace_file
from llmsys.errors import BadInput
from llmsys.gpu import require
from llmsys.vindex.arrays import F32
from llmsys.vindex.content import Content
from llmsys.vindex.slot_store import Id
from llmsys.vindex.table_forms import PARQUET, read_lance, read_parquet, write_lance, write_parquet

__all__ = ["FORMS", "read", "write"]

PIECE = 256
DISTANCES = {
    "cosine": ("Cosine", "vector_cosine_ops"),
    "ip": ("Dot", "vector_ip_ops"),
    "l2": ("Euclid", "vector_l2_ops"),
}


def write(form: str, content: Content, dest: Path) -> None:
    """Write a directory in one of FORMS; for Parquet a name that ends in .parquet is a file.

    Raises Unavailable where a form needs a package that is missing.
    """
    if dest.suffix != PARQUET:
        dest.mkdir(parents=True, exist_ok=True)
    _FORMS[form][0](content, dest)


def read(form: str, source: Path) -> Content:
    """What `write` wrote in this form. Raises BadInput for anything else."""
    return _FORMS[form][1](source)


class _Payload(msgspec.Struct):
    """A Qdrant payload: the tenants under a keyword index, and the id as it was."""

    tenants: list[str]
    id: Id | None = None


class _Point(msgspec.Struct):
    """A Qdrant point."""

    id: Id
    vector: list[float]
    payload: _Payload


class _Points(msgspec.Struct):
    """The body of one upsert."""

    points: list[_Point]


def _write_qdrant(content: Content, dest: Path) -> None:
    """`collection.json`, `index.json` and bodies of upserts, in the order in which Qdrant's HTTP API takes them."""
    distance = DISTANCES[content.metric or "cosine"][0]
    collection = {"vectors": {"size": content.vectors.shape[1], "distance": distance}}
    field = {"field_name": "tenants", "field_schema": {"type": "keyword", "is_tenant": True}}
    _write_lines(dest / "collection.json", [collection])
    _write_lines(dest / "index.json", [field])
    points = [
        _Point(number, vector.astype(float).tolist(), _Payload(tenants, one))
        for number, (one, vector, tenants) in enumerate(content.rows())
    ]
    pieces = [_Points(points[start : start + PIECE]) for start in range(0, len(points), PIECE)]
    _write_lines(dest / "points.jsonl", pieces)


def _read_qdrant(source: Path) -> Content:
    named = {one: metric for metric, (one, _) in DISTANCES.items()}
    collection = _decoded(source / "collection.json", dict[str, Any])[0]
    distance = collection.get("vectors", {}).get("distance")
    if distance not in named:
        raise BadInput(str(source / "collection.json"), f"distance {distance!r}", ", ".join(named))
    points = [point for body in _decoded(source / "points.jsonl", _Points) for point in body.points]
    ids = [point.id if point.payload.id is None else point.payload.id for point in points]
    vectors = _matrix([point.vector for point in points], source / "points.jsonl")
    return Content(vectors, ids, [point.payload.tenants for point in points], named[distance])


class _Row(msgspec.Struct):
    """A row as Milvus imports it."""

    id: Id
    vector: list[float]
    tenants: list[str]


def _write_milvus(content: Content, dest: Path) -> None:
    rows = [_Row(one, vector.astype(float).tolist(), tenants) for one, vector, tenants in content.rows()]
    _write_lines(dest / "rows.json", [{"rows": rows}])


def _read_milvus(source: Path) -> Content:
    path = source / "rows.json" if source.is_dir() else source
    rows = _decoded(path, dict[str, list[_Row]])[0].get("rows", [])
    return Content(
        _matrix([row.vector for row in rows], path), [row.id for row in rows], [r.tenants for r in rows], None
    )


def _write_pgvector(content: Content, dest: Path) -> None:
    """`schema.sql` and `vectors.copy`: psql -f schema.sql, then \\copy vectors from 'vectors.copy'."""
    kind = "text" if any(isinstance(one, str) for one in content.ids) else "bigint"
    operators = DISTANCES[content.metric or "cosine"][1]
    schema = (
        "CREATE EXTENSION IF NOT EXISTS vector;\n"
        f"CREATE TABLE vectors (id {kind} PRIMARY KEY, vector vector({content.vectors.shape[1]}), tenants text[]);\n"
        "CREATE INDEX ON vectors USING gin (tenants);\n"
        f"CREATE INDEX ON vectors USING hnsw (vector {operators});\n"
    )
    (dest / "schema.sql").write_text(schema, encoding="utf-8")
    with replace_file(dest / "vectors.copy") as stream:
        for one, vector, tenants in content.rows():
            numbers = ",".join(map(repr, vector.astype(float).tolist()))
            array = "{" + ",".join(_quoted(name) for name in tenants) + "}"
            stream.write("\t".join((_escaped(str(one)), f"[{numbers}]", _escaped(array))).encode() + b"\n")


def _read_pgvector(source: Path) -> Content:
    text = (source / "schema.sql").read_text(encoding="utf-8")
    kind = re.search(r"\(id (\w+) PRIMARY KEY", text)
    metric = next((name for name, (_, operators) in DISTANCES.items() if operators in text), None)
    if kind is None or metric is None:
        raise BadInput(str(source / "schema.sql"), "no table of vectors", "what `vindex export --to pgvector` writes")
    path, ids, vectors, tenants = source / "vectors.copy", list[Id](), list[list[float]](), list[list[str]]()
    for number, line in read_lines(str(path)):
        fields = [_unescaped(field) for field in line.decode().rstrip("\n").split("\t")]
        try:
            name, vector, array = fields
            ids.append(int(name) if kind[1] == "bigint" else name)
            vectors.append(msgspec.json.decode(vector, type=list[float]))
        except ValueError as error:
            raise BadInput(f"{path}:{number}", str(error), "id, vector and tenants, with tabs between") from error
        tenants.append([re.sub(r"\\(.)", r"\1", item) for item in re.findall(r'"((?:[^"\\]|\\.)*)"', array)])
    return Content(_matrix(vectors, path), ids, tenants, metric)


def _write_faiss(content: Content, dest: Path) -> None:
    """`index.faiss`, a flat index with ids, and `access.jsonl`; Raises BadInput for text ids, which faiss has not."""
    faiss = require("faiss")
    if any(isinstance(one, str) for one in content.ids):
        raise BadInput(str(dest), "ids that are text", "integers, for faiss")
    dim = content.vectors.shape[1]
    flat = faiss.IndexFlatL2(dim) if content.metric == "l2" else faiss.IndexFlatIP(dim)
    index = faiss.IndexIDMap2(flat)
    index.add_with_ids(np.ascontiguousarray(content.vectors), np.array(content.ids, np.int64))
    faiss.write_index(index, str(dest / "index.faiss"))
    access = [{"id": one, "tenants": tenants} for one, _, tenants in content.rows()]
    _write_lines(dest / "access.jsonl", access)


def _read_faiss(source: Path) -> Content:
    faiss = require("faiss")
    path = source / "index.faiss"
    if not path.exists():
        raise FileNotFoundError(2, "No such file or directory", str(path))
    try:
        index = faiss.read_index(str(path))
        flat = faiss.downcast_index(index.index)
        vectors = faiss.rev_swig_ptr(flat.get_xb(), flat.ntotal * flat.d).reshape(flat.ntotal, flat.d).copy()
    except (RuntimeError, AttributeError) as error:
        raise BadInput(str(path), str(error).splitlines()[0], "a flat index with ids") from error
    ids = faiss.vector_to_array(index.id_map).tolist()
    granted = {one.id: one.tenants for one in _decoded(source / "access.jsonl", _Access)}
    metric = "l2" if index.metric_type == faiss.METRIC_L2 else "ip"
    return Content(vectors, ids, [granted.get(one, []) for one in ids], metric)


class _Access(msgspec.Struct):
    """Who may see a vector."""

    id: Id
    tenants: list[str]


def _write_lines(path: Path, records: Sequence[object]) -> None:
    with replace_file(path) as stream:
        stream.writelines(encode(record) for record in records)


def _decoded(path: Path, kind: Any) -> list[Any]:  # noqa: ANN401
    """The records of a file, one per line. Raises BadInput for a line that is none, and for a file without any."""
    decoder, found = msgspec.json.Decoder(kind), []
    for number, line in read_lines(str(path)):
        try:
            found.append(decoder.decode(line))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadInput(f"{path}:{number}", str(error), "what `vindex export` writes") from error
    if not found:
        raise BadInput(str(path), "nothing in it", "what `vindex export` writes")
    return found


def _matrix(rows: list[list[float]], path: Path) -> F32:
    if len({len(row) for row in rows}) != 1:
        raise BadInput(str(path), "vectors of several lengths, or none", "one length")
    return np.array(rows, np.float32)


def _quoted(name: str) -> str:
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _escaped(text: str) -> str:
    """A field of COPY's text format, in which a backslash stands for itself doubled."""
    return text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n")


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", lambda found: {"t": "\t", "n": "\n"}.get(found[1], found[1]), text)


_FORMS: dict[str, tuple[Callable[[Content, Path], None], Callable[[Path], Content]]] = {
    "parquet": (write_parquet, read_parquet),
    "lancedb": (write_lance, read_lance),
    "qdrant": (_write_qdrant, _read_qdrant),
    "milvus": (_write_milvus, _read_milvus),
    "pgvector": (_write_pgvector, _read_pgvector),
    "faiss": (_write_faiss, _read_faiss),
}
FORMS = tuple(_FORMS)
