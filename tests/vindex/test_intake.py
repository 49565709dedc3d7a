"""What may enter an index: names, ids and access lists are judged before anything changes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsys.errors import BadInput
from llmsys.vindex import Index, NotFound
from llmsys.vindex.intake import check_access, check_ids, check_tenant, present_ids


@pytest.mark.parametrize("name", ["a", "vis:public", "ä", "a b", "x" * 512, "ä" * 256, '"', "日本"])
def test_a_name_of_printable_characters_within_512_bytes_is_one(name):
    assert check_tenant(name) == name


@pytest.mark.parametrize("name", ["", "a\tb", "a\n", "\0", "x" * 513, "ä" * 257, "\u200b", "\ud800", "\x7f"])
def test_anything_else_is_no_name(name):
    with pytest.raises(BadInput, match="not a name"):
        check_tenant(name)


def test_without_ids_a_row_number_is_the_id():
    assert check_ids(None, 3) == [0, 1, 2]


@given(st.lists(st.integers(-(2**63), 2**63 - 1), unique=True, max_size=6))
def test_integers_of_64_bits_are_ids_in_every_form(ids):
    assert check_ids(ids, len(ids)) == ids
    assert check_ids(np.array(ids, np.int64), len(ids)) == ids


@pytest.mark.parametrize(
    ("ids", "count", "named"),
    [
        ([1, 2], 3, "2 ids for 3"),
        ([1, "a"], 2, "type int"),
        (["a", 1], 2, "type str"),
        ([1, 1], 2, "a second time"),
        (["a", "a"], 2, "a second time"),
        ([2**63], 1, "64 bits"),
        ([-(2**63) - 1], 1, "64 bits"),
        ([True], 1, "an integer or text"),
        ([1.0], 1, "an integer or text"),
        ([None], 1, "an integer or text"),
        (["a\n"], 1, "control characters"),
        ([""], 1, "not a name"),
    ],
)
def test_other_ids_are_refused_by_name(ids, count, named):
    with pytest.raises(BadInput, match=named):
        check_ids(ids, count)


@pytest.mark.parametrize(("ids", "like"), [([1], str), (["a"], int)])
def test_ids_are_of_the_kind_that_the_index_has(ids, like):
    with pytest.raises(BadInput, match=f"type {like.__name__}"):
        check_ids(ids, 1, like)


def test_access_comes_in_the_order_of_ids_or_by_id_and_names_count_once():
    ids = ["x", "y", "z"]

    assert check_access(None, ids) == [[], [], []]
    assert check_access([["a", "a", "b"], (), {"c"}], ids) == [["a", "b"], [], ["c"]]
    assert check_access({"z": ["a"], "x": ["b", "b"]}, ids) == [["b"], [], ["a"]]


@pytest.mark.parametrize(
    ("access", "error", "named"),
    [
        ([["a"]], BadInput, "1 lists of tenants for 2"),
        ([["a"], ["b\0"]], BadInput, "control characters"),
        ({3: ["a"]}, NotFound, "no vector has the id 3"),
        ({1: [""]}, BadInput, "not a name"),
    ],
)
def test_access_that_does_not_fit_is_refused(access, error, named):
    with pytest.raises(error, match=named):
        check_access(access, [0, 1])


def test_ids_that_are_there_come_once_and_missing_ones_are_counted_or_named(built):
    store = built[0].state.store

    assert present_ids(store, [5, 5, np.int64(7), 9999], skip_missing=True) == ([5, 7], 1)
    with pytest.raises(NotFound, match="9999"):
        present_ids(store, [5, 9999, 8888], skip_missing=False)


@pytest.mark.parametrize("change", ["grant", "revoke", "delete"])
def test_a_change_that_is_refused_leaves_no_trace(built, change):
    index = built[0]
    before = (index.seq, index.log_bytes, index.state.access())
    arguments = ([1, 2, "x"],) if change == "delete" else ([1, 2, "x"], "t0")

    with pytest.raises(NotFound):
        getattr(index, change)(*arguments)

    assert (index.seq, index.log_bytes, index.state.access()) == before
    assert len(Index.open(index.path)) == 300
