"""A Qdrant filter means what its words say, whatever stands in a tenant's name; what cannot be meant is refused."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsys.errors import BadInput
from llmsys.vindex.qdrant_requests import (
    DeleteRequest,
    PayloadRequest,
    QueryRequest,
    UpsertRequest,
    deleted,
    granted,
    predicate,
    upserted,
)
from llmsys.vindex.where import evaluate, parse

NAMES = st.sampled_from(["a", "b c", 'q"uote', "back\\slash", 'x" OR "b c', "AND", "NOT", "ANY(a)", ")", ";", "ä"])
MATCHES = st.one_of(
    st.builds(lambda name: {"value": name}, NAMES),
    st.builds(lambda names: {"any": names}, st.lists(NAMES, min_size=1, max_size=3)),
)
CONDITIONS = st.lists(st.builds(lambda match: {"key": "tenants", "match": match}, MATCHES), max_size=3)
FILTERS = st.fixed_dictionaries({"must": CONDITIONS, "should": CONDITIONS, "must_not": CONDITIONS})
POINTS = [["a"], ["b c", "a"], ['q"uote', "AND"], ["back\\slash", "NOT", "ä"], ['x" OR "b c'], ["ANY(a)", ")", ";"], []]


def query(**fields):
    return msgspec.convert({"query": [1.0]} | fields, QueryRequest)


def matches(condition, names):
    match = condition["match"]
    return bool({match["value"]} & set(names)) if "value" in match else bool(set(match["any"]) & set(names))


def members(name):
    return np.array([row for row, names in enumerate(POINTS) if name in names], np.int32)


@given(FILTERS)
def test_a_filter_lets_through_what_qdrant_says_it_lets_through(asked):
    text = predicate(query(filter=asked).filter)
    everything = np.arange(len(POINTS), dtype=np.int32)

    found = everything if text is None else evaluate(parse(text), members, everything)

    right = [
        row
        for row, names in enumerate(POINTS)
        if all(matches(one, names) for one in asked["must"])
        and not any(matches(one, names) for one in asked["must_not"])
        and (not asked["should"] or any(matches(one, names) for one in asked["should"]))
    ]
    assert sorted(found.tolist()) == right


@pytest.mark.parametrize("kind", ["must", "should", "must_not"])
def test_a_single_condition_needs_no_list(kind):
    condition = {"key": "tenants", "match": {"value": "a"}}

    assert predicate(query(filter={kind: condition}).filter) == predicate(query(filter={kind: [condition]}).filter)


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({"must": [{"key": "city", "match": {"value": "a"}}]}, "city"),
        ({"must": [{"key": "tenants", "match": {}}]}, "neither"),
        ({"must": [{"key": "tenants", "match": {"value": "a", "any": ["b"]}}]}, "both"),
        ({"must": [{"key": "tenants", "match": {"any": []}}]}, "nothing"),
    ],
)
def test_a_condition_that_would_hide_or_show_too_much_is_refused(asked, named):
    with pytest.raises(BadInput, match=named):
        predicate(query(filter=asked).filter)


@pytest.mark.parametrize(
    "fields",
    [
        {"filter": {"min_should": 2}},
        {"filter": {"must": [{"has_id": [1]}]}},
        {"filter": {"must": [{"key": "tenants", "match": {"except": ["a"]}}]}},
        {"filter": {"must": [{"key": "tenants", "range": {"gt": 1}}]}},
        {"prefetch": []},
        {"query": "text"},
    ],
)
def test_what_is_not_understood_is_no_request(fields):
    with pytest.raises(msgspec.ValidationError):
        query(**fields)


def test_a_query_comes_bare_or_wrapped_and_gives_no_vectors_back():
    assert query(query=[1.0, 2.0]).vector == query(query={"nearest": [1.0, 2.0]}).vector == [1.0, 2.0]
    with pytest.raises(BadInput, match="not given back"):
        _ = query(with_vector=True).vector


def test_points_and_batches_are_the_same_changes():
    points = [{"id": 1, "vector": [1.0], "payload": {"tenants": ["a"]}}, {"id": "x", "vector": [2.0]}]
    batch = {"ids": [1, "x"], "vectors": [[1.0], [2.0]], "payloads": [{"tenants": "a"}, None]}

    changes = upserted(msgspec.convert({"points": points}, UpsertRequest))

    assert changes == upserted(msgspec.convert({"batch": batch}, UpsertRequest))
    assert [(one.op, one.id, one.vector, one.tenants) for one in changes] == [
        ("add", 1, [1.0], ["a"]),
        ("add", "x", [2.0], []),
    ]


@pytest.mark.parametrize("spoiled", [{"ids": [1]}, {"vectors": [[1.0]]}, {"payloads": [None]}])
def test_columns_of_several_lengths_are_refused(spoiled):
    batch = {"ids": [1, 2], "vectors": [[1.0], [2.0]], "payloads": [None, None]} | spoiled

    with pytest.raises(BadInput, match="one for each"):
        upserted(msgspec.convert({"batch": batch}, UpsertRequest))


def test_a_payload_with_other_fields_is_refused():
    points = [{"id": 1, "vector": [1.0], "payload": {"tenants": ["a"], "city": "Rome"}}]

    with pytest.raises(msgspec.ValidationError, match="city"):
        msgspec.convert({"points": points}, UpsertRequest)


def test_deletions_and_grants_name_their_points():
    gone = deleted(msgspec.convert({"points": [3, 3, 4]}, DeleteRequest))
    seen = granted(msgspec.convert({"payload": {"tenants": ["a", "b"]}, "points": [3, 4]}, PayloadRequest))

    assert [(one.op, one.id) for one in gone] == [("delete", 3), ("delete", 4)]
    assert [(one.op, one.ids, one.tenant) for one in seen] == [("grant", [3, 4], "a"), ("grant", [3, 4], "b")]
