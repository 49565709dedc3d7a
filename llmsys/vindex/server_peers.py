"""Peers that are whole stores: Milvus Lite, Chroma, and PostgreSQL with pgvector, each over its own client.

The first two run in this process; PostgreSQL is a server that `--pg` names, in which a table of its own is made and
dropped. Each keeps a vector once, with the list of its tenants, and filters by it.
"""

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from llmsys.errors import Unavailable
from llmsys.gpu import require
from llmsys.vindex.arrays import I64
from llmsys.vindex.contender import Contender, Peer, Trial, file_bytes, names_of, one_by_one

__all__ = ["PGVECTOR", "STORE_PEERS", "pgvector_peer"]

PGVECTOR = "pgvector"
PIECE = 1000
LINKS = 16
BUILD_WIDTH = 100
SEARCH_WIDTHS = (40, 400)
NAME_BYTES = 512
TABLE = "llmsys_vindex_bench"


def _milvus(trial: Trial) -> Iterator[Contender]:
    """A collection with an array field of tenants, compared in full."""
    package, work, names = require("pymilvus"), trial.work, names_of(trial)
    require("milvus_lite")
    kinds = package.DataType
    with TemporaryDirectory() as place:
        start = time.perf_counter()
        client = package.MilvusClient(str(Path(place) / "vectors.db"))
        schema = client.create_schema(auto_id=False)
        schema.add_field("id", kinds.INT64, is_primary=True)
        schema.add_field("vector", kinds.FLOAT_VECTOR, dim=work.vectors.shape[1])
        most = max(map(len, names))
        schema.add_field("tenants", kinds.ARRAY, element_type=kinds.VARCHAR, max_capacity=most, max_length=NAME_BYTES)
        index = client.prepare_index_params()
        index.add_index("vector", index_type="FLAT", metric_type="IP")
        client.create_collection("vectors", schema=schema, index_params=index)
        for first in range(0, len(names), PIECE):
            rows = range(first, min(first + PIECE, len(names)))
            part = [{"id": row, "vector": work.vectors[row], "tenants": names[row]} for row in rows]
            client.insert("vectors", part)
        build_s = time.perf_counter() - start

        def answer(number: int) -> I64:
            holds = f'array_contains(tenants, "{trial.tenant(number)}")'
            found = client.search("vectors", data=trial.query(number).tolist(), limit=trial.k, filter=holds)
            return np.array([hit["id"] for hit in found[0]], np.int64)

        overhead = file_bytes(Path(place)) - work.vectors.nbytes
        yield Contender("milvus-lite", "flat", overhead, build_s, one_by_one(answer, trial.k), slow=True)
        client.close()


def _chroma(trial: Trial) -> Iterator[Contender]:
    """A collection with the tenants as a list in the metadata."""
    package, work, names = require("chromadb"), trial.work, names_of(trial)
    with TemporaryDirectory() as place:
        start = time.perf_counter()
        client = package.PersistentClient(place)
        made = client.create_collection("vectors", metadata={"hnsw:space": "ip", "hnsw:M": LINKS})
        for first in range(0, len(names), PIECE):
            rows = list(range(first, min(first + PIECE, len(names))))
            metadata = [{"tenants": names[row] or ["-"]} for row in rows]
            made.add(ids=[str(row) for row in rows], embeddings=work.vectors[rows], metadatas=metadata)
        build_s = time.perf_counter() - start

        def answer(number: int) -> I64:
            holds = {"tenants": {"$contains": trial.tenant(number)}}
            found = made.query(query_embeddings=trial.query(number), n_results=trial.k, where=holds, include=[])
            return np.array([int(one) for one in found["ids"][0]], np.int64)

        overhead = file_bytes(Path(place)) - work.vectors.nbytes
        yield Contender("chromadb", "hnsw", overhead, build_s, one_by_one(answer, trial.k), slow=True)


def pgvector_peer(dsn: str | None) -> Peer:
    """PostgreSQL at a connection string; without one it is missing, and says how to name one."""
    return Peer(PGVECTOR, "psycopg", partial(_pgvector, dsn))


def _pgvector(dsn: str | None, trial: Trial) -> Iterator[Contender]:
    """A table with an array column under a GIN index: filtered first and compared in full, then by the HNSW index."""
    if dsn is None:
        raise Unavailable("no PostgreSQL server is named", "--pg DSN")
    package = require("psycopg")
    try:
        connection = package.connect(dsn, autocommit=True)
        connection.execute("create extension if not exists vector")
    except package.Error as error:
        raise Unavailable(f"{PGVECTOR}: {str(error).strip().splitlines()[0]}", "a server with pgvector") from error
    with connection:
        start = time.perf_counter()
        _load(connection, trial)
        connection.execute(f"create index on {TABLE} using gin (tenants)")
        connection.execute(f"analyze {TABLE}")
        connection.execute("set max_parallel_workers_per_gather = 0")
        build_s = time.perf_counter() - start
        answers = one_by_one(partial(_asked, connection, trial), trial.k)
        yield Contender(PGVECTOR, "exact", _table_bytes(connection, trial), build_s, answers, slow=True)
        start = time.perf_counter()
        connection.execute("set maintenance_work_mem = '512MB'")
        connection.execute("set max_parallel_maintenance_workers = 0")
        options = f"with (m = {LINKS}, ef_construction = {BUILD_WIDTH})"
        connection.execute(f"create index on {TABLE} using hnsw (vector vector_ip_ops) {options}")
        build_s += time.perf_counter() - start
        connection.execute("set enable_bitmapscan = off")
        connection.execute("set enable_seqscan = off")
        for width in SEARCH_WIDTHS:
            connection.execute(f"set hnsw.ef_search = {width}")
            overhead = _table_bytes(connection, trial)
            yield Contender(PGVECTOR, f"hnsw ef {width}", overhead, build_s, answers, slow=True)
        connection.execute(f"drop table {TABLE}")


def _load(connection: Any, trial: Trial) -> None:  # noqa: ANN401
    connection.execute(f"drop table if exists {TABLE}")
    kind = f"vector({trial.work.vectors.shape[1]})"
    connection.execute(f"create table {TABLE} (id bigint primary key, vector {kind}, tenants text[])")
    with connection.cursor().copy(f"copy {TABLE} from stdin") as stream:
        for row, (vector, names) in enumerate(zip(trial.work.vectors.tolist(), names_of(trial), strict=True)):
            stream.write_row((row, str(vector), names))


def _asked(connection: Any, trial: Trial, number: int) -> I64:  # noqa: ANN401
    asked = f"select id from {TABLE} where tenants @> %s order by vector <#> %s::vector limit %s"
    values = ([trial.tenant(number)], str(trial.query(number)[0].tolist()), trial.k)
    return np.array([row for (row,) in connection.execute(asked, values).fetchall()], np.int64)


def _table_bytes(connection: Any, trial: Trial) -> int:  # noqa: ANN401
    (size,) = connection.execute("select pg_total_relation_size(%s)", (TABLE,)).fetchone()
    return int(size) - trial.work.vectors.nbytes


STORE_PEERS = (
    Peer("milvus-lite", "pymilvus", _milvus, most_grants=100_000),
    Peer("chromadb", "chromadb", _chroma, most_grants=100_000),
)
