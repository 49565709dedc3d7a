"""Stores that are peers answer under their filters as the truth says; a missing one is named with its reason."""

import numpy as np
import pytest

from llmsys.vindex.bench import compare
from llmsys.vindex.server_peers import PGVECTOR, STORE_PEERS
from llmsys.vindex.workload import Workload
from tests.vindex.conftest import random_access


@pytest.fixture(scope="module")
def work():
    generator = np.random.default_rng(4)
    vectors = generator.normal(size=(340, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return Workload(vectors[:300], random_access(generator, 300), vectors[300:], ["t0", "t1"] * 20)


def rows_of(work, peer, **options):
    found = compare(work, k=5, seed=0, peers=[peer], **options)
    return {row.setting: row for row in found.rows if row.system == peer and row.visible == "own tenants"}, found


@pytest.mark.parametrize(("peer", "needed"), [("milvus-lite", "milvus_lite"), ("chromadb", "chromadb")])
def test_an_installed_store_finds_what_the_tenant_sees(work, peer, needed):
    pytest.importorskip(needed)

    rows, found = rows_of(work, peer)

    assert [row.recall > 0.9 for row in rows.values()] == [True]
    assert all(row.build_s > 0 for row in rows.values())
    assert peer not in found.missing


@pytest.mark.parametrize("peer", [one.name for one in STORE_PEERS])
def test_a_workload_that_a_store_cannot_load_in_time_is_left_out_by_its_size(work, peer):
    many = Workload(work.vectors, [[f"t{n}" for n in range(400)]] * 300, work.queries, work.tenants)

    rows, found = rows_of(many, peer)

    assert rows == {}
    assert "120000 grants" in found.missing[peer]


def test_postgres_finds_exactly_what_the_tenant_sees_and_keeps_no_table(work, tmp_path):
    server = pytest.importorskip("pgserver").get_server(tmp_path / "pg")
    try:
        rows, _ = rows_of(work, PGVECTOR, pg=server.get_uri())
        left = server.psql("select count(*) from pg_tables where tablename like 'llmsys%';")
    finally:
        server.cleanup()

    assert rows["exact"].recall == 1
    assert set(rows) == {"exact", "hnsw ef 40", "hnsw ef 400"}
    assert left.split()[2] == "0"


def test_a_server_that_is_not_there_is_a_reason_and_no_failure(work):
    for pg in (None, "postgresql://nobody@127.0.0.1:9/none"):
        rows, found = rows_of(work, PGVECTOR, pg=pg)

        assert rows == {}
        assert len(found.missing[PGVECTOR].splitlines()) == 1
