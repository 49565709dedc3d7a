"""A caller that speaks for one tenant learns of nobody else, whatever it asks; an administrator may ask everything."""

import numpy as np
import pytest

from llmsys.errors import BadInput, UsageFault
from llmsys.vindex import NotFound
from llmsys.vindex.access_tokens import Caller
from llmsys.vindex.changes import ChangeRecord
from llmsys.vindex.service import Forbidden, SearchRequest, Service

ROOT, T0, NOBODY = Caller(None), Caller("t0"), Caller("nobody")


@pytest.fixture
def service(built):
    return Service(built[0])


def asked(**fields):
    return SearchRequest(**({"vector": [0.0] * 7, "recall": None} | fields))


def seen_by(access, name):
    return {row for row, names in enumerate(access) if name in names}


@pytest.mark.parametrize("fields", [{}, {"tenant": "t0"}, {"where": "t0"}, {"where": "NOT t0"}])
def test_a_tenant_finds_what_it_sees_and_nothing_else(service, built, fields):
    _, (found,) = service.search(asked(k=300, **fields), T0)

    right = set() if fields.get("where") == "NOT t0" else seen_by(built[2], "t0")
    assert set(found.ids) == right
    assert found.distances == sorted(found.distances)


@pytest.mark.parametrize(
    "fields",
    [
        {"tenant": "t1"},
        {"tenants": ["t1"]},
        {"where": "t1"},
        {"where": "t0 AND NOT t1"},
        {"where": "AT_LEAST(1; t0, t2)"},
        {"tenant": "t0", "tenants": ["t4"]},
    ],
)
def test_a_tenant_may_not_ask_as_or_about_another(service, fields):
    with pytest.raises(Forbidden):
        service.search(asked(**fields), T0)


def test_a_tenant_that_sees_nothing_gets_the_same_answer_as_one_that_is_not_there(service, built):
    built[0].drop_tenant("t1")

    answers = [service.search(asked(), Caller(name)) for name in ("t1", "nobody")]

    assert answers[0] == answers[1]
    assert answers[0][1][0].ids == []
    figures = [service.stats(Caller(name), None) for name in ("t1", "nobody")]
    assert [(one.vectors, one.nodes, one.tail) for one in figures] == [(0, 0, 0)] * 2


def test_an_administrator_asks_for_anybody_and_for_all(service, built):
    _, vectors, access = built

    _, (everything,) = service.search(asked(k=300), ROOT)
    seq, (one, two) = service.search(
        SearchRequest(vectors=vectors[:2].tolist(), tenants=["t1", "t2"], k=300, recall=None), ROOT
    )

    assert set(everything.ids) == set(range(300))
    assert (set(one.ids), set(two.ids)) == (seen_by(access, "t1"), seen_by(access, "t2"))
    assert seq == 0


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"vector": None}, BadInput),
        ({"vectors": [[0.0] * 7]}, BadInput),
        ({"vector": None, "vectors": []}, BadInput),
        ({"vector": None, "vectors": [[0.0] * 7, [0.0]]}, BadInput),
        ({"vector": None, "vectors": [[0.0] * 7] * 10_001}, BadInput),
        ({"vector": [0.0]}, BadInput),
        ({"vector": [float("nan")] * 7}, BadInput),
        ({"k": 0}, UsageFault),
        ({"k": 10_001}, UsageFault),
        ({"where": "t0 AND"}, UsageFault),
        ({"tenants": ["t0", "t1"]}, UsageFault),
    ],
)
def test_a_request_that_does_not_fit_is_refused(service, fields, error):
    with pytest.raises(error):
        service.search(asked(**fields), ROOT)


@pytest.mark.parametrize("caller", [T0, NOBODY])
def test_only_an_administrator_changes_anything(service, built, caller):
    with pytest.raises(Forbidden):
        service.apply([ChangeRecord("grant", 1, tenant=caller.tenant)], caller)

    assert (built[0].seq, service.counts["changes"]) == (0, 0)


def test_changes_are_made_in_order_and_those_before_a_fault_stay(service, built):
    changes = [ChangeRecord("grant", 1, tenant="new"), ChangeRecord("delete", 4711), ChangeRecord("delete", 2)]

    with pytest.raises(NotFound, match="4711"):
        service.apply(changes, ROOT)

    assert service.counts["changes"] == 1
    assert service.apply([ChangeRecord("revoke", 1, tenant="new")], ROOT) == built[0].seq == 2
    assert 2 in built[0].state.store.slot_of


def test_who_sees_a_vector_is_for_administrators(service, built):
    access = built[2]

    assert service.tenants_of([0, 4711, 5], ROOT) == [access[0], [], access[5]]
    assert service.tenants_of([0, 4711, 5], T0) == [["t0"]] * 3


def test_figures_of_the_index_are_for_administrators_and_a_tenant_s_for_itself(service, built):
    assert service.stats(ROOT, None).vectors == 300
    assert service.stats(ROOT, "t1").vectors == len(seen_by(built[2], "t1"))
    assert service.stats(T0, None) == service.stats(T0, "t0") == service.stats(ROOT, "t0")
    with pytest.raises(Forbidden):
        service.stats(T0, "t1")


def test_searches_are_counted_one_by_one(service):
    service.search(asked(), T0)
    service.search(SearchRequest(vectors=np.zeros((5, 7)).tolist()), ROOT)

    assert service.counts["searches"] == 6
