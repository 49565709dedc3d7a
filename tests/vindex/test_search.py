"""Answers against brute force: three metrics, both kinds of ids, many tenants in one call, predicates, plans."""

import numpy as np
import pytest

from llmsys.errors import BadInput, UsageFault
from llmsys.vindex import Effort, Index
from llmsys.vindex.index_files import PlanRecord
from llmsys.vindex.search import planned
from tests.vindex.conftest import SMALL, brute_force, random_access

PATIENT = Effort(400, 10**9)


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
@pytest.mark.parametrize("text", [False, True], ids=["int", "str"])
def test_an_exact_search_is_brute_force_over_what_the_tenant_sees(tmp_path, generator, metric, text):
    vectors = generator.normal(size=(200, 9)).astype(np.float32)
    ids = [f"v{row}" if text else row * 7 - 300 for row in range(200)]
    access = random_access(generator, 200)
    queries = generator.normal(size=(12, 9)).astype(np.float32)
    tenants = [f"t{number % 5}" for number in range(12)]

    with Index.build(tmp_path / "idx", vectors, ids, access, metric=metric, shape=SMALL) as index:
        hits = index.search(queries, tenants, k=8, recall=None)

    for number, tenant in enumerate(tenants):
        seen = [row for row in range(200) if tenant in access[row]]
        right = brute_force(vectors[seen], [ids[row] for row in seen], queries[number], 8, metric)
        found, distances = hits.row(number)
        assert found == right[0]
        assert distances == pytest.approx(right[1], rel=1e-5, abs=1e-5)
        assert hits.scanned[number] == len(seen)


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_a_search_without_impatience_misses_nothing_that_its_width_covers(tmp_path, generator, metric):
    vectors = generator.normal(size=(500, 16)).astype(np.float32)
    with Index.build(tmp_path / "idx", vectors, metric=metric, access=[["a"]] * 500, shape=SMALL) as index:
        found = index.search(vectors[:20], "a", k=5, effort=PATIENT)
        right = index.search(vectors[:20], "a", k=5, recall=None)

    assert found.ids.tolist() == right.ids.tolist()
    assert found.distances.tolist() == right.distances.tolist()


@pytest.mark.parametrize("effort", [None, Effort(20, 1)], ids=["exact", "impatient"])
def test_a_search_returns_k_vectors_or_all_that_the_tenant_sees(built, effort):
    index, _, access = built
    index.revoke([row for row in range(300) if "t0" in access[row]][3:], "t0")

    for tenant, k in (("t0", 10), ("t0", 2), ("t1", 100), ("nobody", 4)):
        hits = index.search(np.zeros((1, 7)), tenant, k=k, effort=effort)
        sees = 3 if tenant == "t0" else sum(tenant in names for names in access)
        assert len(hits.row(0)[0]) == min(k, sees)
        assert hits.ids.shape == (1, k)


def test_ties_go_to_the_smaller_id_whatever_the_order_of_arrival(tmp_path):
    ids = [5, 3, 9, -2, 7]
    with Index.build(tmp_path / "idx", np.ones((5, 3)), ids, metric="l2") as index:
        assert index.search(np.ones((1, 3)), k=3).row(0)[0] == [-2, 3, 5]
        assert index.search(np.ones((1, 3)), k=3, effort=PATIENT).row(0)[0] == [-2, 3, 5]


def test_a_large_common_offset_does_not_cost_digits(tmp_path, generator):
    vectors = (1e4 + generator.normal(size=(400, 8))).astype(np.float32)
    with Index.build(tmp_path / "idx", vectors, metric="l2", shape=SMALL) as index:
        found = index.search(vectors[:30], k=5, effort=Effort(20, 10**6))
        right = index.search(vectors[:30], k=5, recall=None)

    assert (found.ids == right.ids).mean() > 0.97


def test_equal_vectors_make_one_leaf_and_all_are_found(tmp_path):
    with Index.build(tmp_path / "idx", np.ones((400, 4)), access=[["a"]] * 400, metric="l2", shape=SMALL) as index:
        assert index.state.clusters.leaves == 1
        assert index.search(np.ones((1, 4)), "a", k=400, effort=Effort(400, 1)).row(0)[0] == list(range(400))


def test_an_empty_index_is_searched_and_filled(tmp_path):
    with Index.build(tmp_path / "idx", np.zeros((0, 4)), metric="ip") as index:
        assert index.search(np.ones((2, 4)), "a").row(1) == ([], [])
        index.add(np.ones((1, 4)), ["first"], [["a"]])
        assert index.search(np.ones((2, 4)), "a").row(1) == (["first"], [4.0])


@pytest.mark.parametrize(
    ("where", "holds"),
    [
        ("t0", lambda names: "t0" in names),
        ("t0 AND t1", lambda names: {"t0", "t1"} <= names),
        ("NOT t0", lambda names: "t0" not in names),
        ("t0 AND NOT (t1 OR t2)", lambda names: "t0" in names and not names & {"t1", "t2"}),
        ("t0 OR NOT t1", lambda names: "t0" in names or "t1" not in names),
        ("AT_LEAST(2; t0, t1, t2)", lambda names: len(names & {"t0", "t1", "t2"}) >= 2),
        ('ANY("t3",t4) AND nobody', lambda names: False),
        ("ALL(t3, t4)", lambda names: {"t3", "t4"} <= names),
    ],
)
@pytest.mark.parametrize("tenant", [None, "t2"])
def test_a_predicate_narrows_what_the_caller_sees(built, where, holds, tenant):
    index, _, access = built

    hits = index.search(np.zeros((1, 7)), tenant, k=300, where=where, effort=Effort(20, 3))

    seen = {row for row in range(300) if holds(set(access[row])) and (tenant is None or tenant in access[row])}
    assert set(hits.row(0)[0]) == seen


@pytest.mark.parametrize(
    ("queries", "options", "error"),
    [
        (np.zeros((1, 6)), {}, BadInput),
        (np.full((1, 7), np.nan), {}, BadInput),
        (np.full((1, 7), 1e19), {}, BadInput),
        (np.zeros((1, 7)), {"k": 0}, UsageFault),
        (np.zeros((1, 7)), {"k": 10_001}, UsageFault),
        (np.zeros((2, 7)), {"tenants": ["t0"]}, UsageFault),
        (np.zeros((1, 7)), {"where": "t0 AND"}, UsageFault),
    ],
)
def test_a_query_that_does_not_fit_is_refused(built, queries, options, error):
    with pytest.raises(error, match="expected"):
        built[0].search(queries, **options)


def test_a_zero_query_is_refused_under_cosine(tmp_path):
    with (
        Index.build(tmp_path / "idx", np.ones((2, 3))) as index,
        pytest.raises(BadInput, match="zero vector under cosine"),
    ):
        index.search(np.zeros((1, 3)))


def test_a_plan_serves_the_sizes_from_its_own_up():
    def plan(size, width):
        return PlanRecord(0.9, 10, size, width, 4, 0.95, 0.93, 100)

    plans = [plan(100, 20), plan(1000, 0), plan(5000, 40)]

    assert [planned(plans, size) for size in (99, 100, 999, 1000, 9999)] == [
        None,
        Effort(20, 4),
        Effort(20, 4),
        None,
        Effort(40, 4),
    ]
