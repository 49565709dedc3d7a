"""The generated workload: sizes, sharing and neighbourhoods are what was asked for, and a written one reads back."""

import numpy as np
import pytest

from llmsys.errors import BadInput, UsageFault
from llmsys.vindex.workload import WorkloadShape, make_workload, read_workload, write_workload

SHAPE = WorkloadShape(vectors=2000, tenants=40, zipf=0.9, sharing=5.0, queries=60)


@pytest.fixture(scope="module")
def work():
    return make_workload(np.random.default_rng(5).normal(size=(2300, 8)).astype(np.float32), SHAPE, seed=1)


def test_every_tenant_has_its_size_and_every_vector_its_share(work):
    sizes = [len(rows) for rows in work.rows_of().values()]

    assert len(sizes) == 40
    assert sum(sizes) / 2000 == pytest.approx(5, rel=0.01)
    assert max(sizes) / min(sizes) == pytest.approx((49 / 10) ** 0.9, rel=0.05)


def test_a_tenants_vectors_lie_closer_together_than_any_others(work):
    rows = work.rows_of()["t39"]
    inside = work.vectors[rows] @ work.vectors[rows].T
    anywhere = work.vectors[:200] @ work.vectors[200:400].T

    assert inside.mean() > anywhere.mean() + 0.1


def test_queries_are_none_of_the_vectors_and_the_same_seed_gives_the_same(work):
    points = np.random.default_rng(5).normal(size=(2300, 8)).astype(np.float32)
    again = make_workload(points, SHAPE, seed=1)

    assert (work.queries @ work.vectors.T).max() < 0.99999
    assert again.access == work.access
    assert again.tenants == work.tenants
    assert make_workload(points, SHAPE, seed=2).access != work.access


def test_a_written_workload_reads_back(work, tmp_path):
    write_workload(tmp_path, work)
    again = read_workload(tmp_path)

    assert again.access == work.access
    assert again.tenants == work.tenants
    np.testing.assert_allclose(again.vectors, work.vectors, atol=1e-6)
    (tmp_path / "tenants.json").write_text('["t1"]')
    with pytest.raises(BadInput, match="1 tenants for 60 queries"):
        read_workload(tmp_path)


def test_too_few_points_are_refused_with_the_number_that_is_needed():
    with pytest.raises(UsageFault, match="expected 2060"):
        make_workload(np.ones((100, 4), np.float32), SHAPE, seed=0)
