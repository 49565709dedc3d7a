"""Peers in this process: the paper's layout, hnswlib, usearch, LanceDB, sqlite-vec, Qdrant's local mode.

Each is used as its own documents say for many tenants. A peer's memory is what its structure needs at least, by its
own account where it has one; those that live in files are counted as their files.
"""

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from llmsys.errors import Unavailable
from llmsys.gpu import require
from llmsys.vindex.arrays import I64
from llmsys.vindex.bloom_layout import bulk_layout
from llmsys.vindex.cluster_tree import TreeShape
from llmsys.vindex.contender import Contender, Peer, Trial, each_built, file_bytes, names_of, one_by_one
from llmsys.vindex.state import build_state

__all__ = ["NOT_COMPARED", "OTHER_PEERS"]

LINKS = 16
BUILD_WIDTH = 100
SEARCH_WIDTHS = (20, 40, 80)
EFFORTS = (64, 128, 256, 512)
PIECE = 5000

NOT_COMPARED = {"Curator's own library": "not on a package index"}


def _curator(trial: Trial) -> Iterator[Contender]:
    """The paper's layout in loops of our own, over the same cluster tree as the index's."""
    work, count = trial.work, len(trial.work.vectors)
    start = time.perf_counter()
    state = build_state(work.vectors, range(count), names_of(trial), metric="cosine", shape=TreeShape(), seed=0)
    layout = bulk_layout(state)
    build_s = time.perf_counter() - start
    ids = np.asarray(layout.state.store.ids)
    overhead = layout.bytes + layout.state.clusters.centroids.nbytes - 4 * sum(map(len, trial.labels.values()))
    for width in EFFORTS:

        def answer(number: int, width: int = width) -> I64:
            found = layout.search(trial.query(number)[0], trial.tenant(number), trial.k, max(width, trial.k))
            return np.asarray(ids[found], np.int64)

        yield Contender("Curator's layout", f"ef {width}", overhead, build_s, one_by_one(answer, trial.k))


def _hnswlib(trial: Trial) -> Iterator[Contender]:
    """A graph per tenant, with copies of its vectors."""
    hnswlib, vectors = require("hnswlib"), trial.work.vectors

    def build(mine: I64) -> Any:  # noqa: ANN401
        graph = hnswlib.Index(space="ip", dim=vectors.shape[1])
        graph.init_index(max_elements=len(mine), M=LINKS, ef_construction=BUILD_WIDTH)
        graph.add_items(vectors[mine], mine, num_threads=1)
        return graph

    graphs, build_s = each_built(trial, build)
    overhead = trial.grants * (4 * vectors.shape[1] + 8 * LINKS + 16) - vectors.nbytes
    for width in SEARCH_WIDTHS:

        def answer(number: int, width: int = width) -> I64:
            graph = graphs[trial.tenant(number)]
            graph.set_ef(max(width, trial.k))
            most = min(trial.k, len(trial.visible(number)))
            return np.asarray(graph.knn_query(trial.query(number), k=most, num_threads=1)[0][0], np.int64)

        yield Contender("hnswlib per tenant", f"ef {width}", overhead, build_s, one_by_one(answer, trial.k))


def _usearch(trial: Trial) -> Iterator[Contender]:
    """A graph per tenant, with copies of its vectors; the package's own account of memory."""
    usearch, vectors = require("usearch.index"), trial.work.vectors

    def build(mine: I64) -> Any:  # noqa: ANN401
        graph = usearch.Index(ndim=vectors.shape[1], metric="ip", connectivity=LINKS, dtype="f32")
        graph.add(mine, vectors[mine], threads=1)
        return graph

    graphs, build_s = each_built(trial, build)
    overhead = sum(int(graphs[name].memory_usage) for name in trial.rows) - vectors.nbytes
    for width in SEARCH_WIDTHS:

        def answer(number: int, width: int = width) -> I64:
            graph = graphs[trial.tenant(number)]
            graph.expansion_search = max(width, trial.k)
            return np.asarray(graph.search(trial.query(number)[0], trial.k, threads=1).keys, np.int64)

        yield Contender("usearch per tenant", f"ef {width}", overhead, build_s, one_by_one(answer, trial.k))


def _lancedb(trial: Trial) -> Iterator[Contender]:
    """One table with an IVF index and a list of labels under a label-list index, filtered before the search."""
    lancedb, arrow, work = require("lancedb"), require("pyarrow"), trial.work
    with TemporaryDirectory() as place:
        start = time.perf_counter()
        columns = {
            "id": np.arange(len(work.vectors)),
            "vector": arrow.FixedSizeListArray.from_arrays(work.vectors.ravel(), work.vectors.shape[1]),
            "tenants": arrow.array(names_of(trial), arrow.list_(arrow.string())),
        }
        table = lancedb.connect(place).create_table("vectors", arrow.table(columns))
        lists = max(1, len(work.vectors) // 1000)
        table.create_index(metric="dot", index_type="IVF_FLAT", num_partitions=lists, vector_column_name="vector")
        table.create_scalar_index("tenants", index_type="LABEL_LIST")
        build_s = time.perf_counter() - start
        overhead = file_bytes(Path(place)) - work.vectors.nbytes
        for probes in sorted({min(lists, 32), lists}):

            def answer(number: int, probes: int = probes) -> I64:
                holds = f"array_has(tenants, '{trial.tenant(number)}')"
                asked = table.search(trial.query(number)[0]).where(holds, prefilter=True)
                found = asked.nprobes(probes).limit(trial.k).select(["id"]).to_arrow()["id"]
                return np.asarray(found.to_numpy(), np.int64)

            answers = one_by_one(answer, trial.k)
            yield Contender("LanceDB IVF + labels", f"nprobes {probes}", overhead, build_s, answers, slow=True)


def _sqlite_vec(trial: Trial) -> Iterator[Contender]:
    """One virtual table that is scanned, the tenant's rows from an access table."""
    package, work = require("sqlite_vec"), trial.work
    with TemporaryDirectory() as place:
        start = time.perf_counter()
        base = sqlite3.connect(Path(place) / "vectors.db")
        if not hasattr(base, "enable_load_extension"):
            raise Unavailable("this Python's sqlite3 loads no extensions", "use a Python that was built with them")
        base.enable_load_extension(True)
        package.load(base)
        kind = f"float[{work.vectors.shape[1]}] distance_metric=cosine"
        base.execute(f"create virtual table v using vec0(embedding {kind})")
        base.execute("create table access (tenant text, id integer, primary key (tenant, id)) without rowid")
        base.executemany("insert into v (rowid, embedding) values (?, ?)", enumerate(map(bytes, work.vectors)))
        base.executemany(
            "insert into access values (?, ?)",
            ((name, row) for name, mine in (trial.rows | trial.labels).items() for row in mine.tolist()),
        )
        base.commit()
        build_s = time.perf_counter() - start
        seen = "select id from access where tenant = ?"
        asked = f"select rowid from v where embedding match ? and k = ? and rowid in ({seen})"

        def answer(number: int) -> I64:
            found = base.execute(asked, (bytes(trial.query(number)), trial.k, trial.tenant(number))).fetchall()
            return np.array([row for (row,) in found], np.int64)

        overhead = file_bytes(Path(place)) - work.vectors.nbytes
        yield Contender("sqlite-vec", "exact", overhead, build_s, one_by_one(answer, trial.k), slow=True)
        base.close()


def _qdrant(trial: Trial) -> Iterator[Contender]:
    """Points with a keyword payload, in the client's own local mode."""
    client_package, work = require("qdrant_client"), trial.work
    models, names = client_package.models, names_of(trial)
    client = client_package.QdrantClient(":memory:")
    start = time.perf_counter()
    size = models.VectorParams(size=work.vectors.shape[1], distance=models.Distance.COSINE)
    client.create_collection("vectors", vectors_config=size)
    for first in range(0, len(work.vectors), PIECE):
        rows = range(first, min(first + PIECE, len(work.vectors)))
        payloads = [{"tenants": names[row]} for row in rows]
        part = work.vectors[first : first + PIECE].tolist()
        client.upsert("vectors", models.Batch(ids=list(rows), vectors=part, payloads=payloads))
    build_s = time.perf_counter() - start

    def answer(number: int) -> I64:
        match = models.FieldCondition(key="tenants", match=models.MatchValue(value=trial.tenant(number)))
        asked = client.query_points(
            "vectors", query=trial.query(number)[0].tolist(), query_filter=models.Filter(must=[match]), limit=trial.k
        )
        return np.array([point.id for point in asked.points], np.int64)

    overhead = 8 * trial.grants
    yield Contender("Qdrant local", "exact", overhead, build_s, one_by_one(answer, trial.k), slow=True)


OTHER_PEERS = (
    Peer("Curator's layout", "numba", _curator),
    Peer("hnswlib per tenant", "hnswlib", _hnswlib),
    Peer("usearch per tenant", "usearch", _usearch),
    Peer("LanceDB IVF + labels", "lancedb", _lancedb),
    Peer("sqlite-vec", "sqlite_vec", _sqlite_vec),
    Peer("Qdrant local", "qdrant_client", _qdrant, most_grants=100_000),
)
