"""Ids, names and access lists are read from every form that they come in, and a wrong word is named."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsys.errors import BadInput
from llmsys.vindex import Index
from llmsys.vindex.sources import listed_ids, read_access, read_collection, read_names, required_ids, typed_ids

NAMES = st.lists(st.text(st.characters(exclude_categories=["Cc", "Cs", "Zs", "Zl", "Zp"]), min_size=1), max_size=6)


@pytest.fixture(scope="module")
def indexes(tmp_path_factory):
    place = tmp_path_factory.mktemp("indexes")
    with (
        Index.build(place / "numbers", np.eye(3), [7, 8, -9]) as numbers,
        Index.build(place / "texts", np.eye(2), ["7", "b c"]) as texts,
    ):
        return numbers, texts


@given(NAMES)
def test_names_are_read_from_a_list_and_from_quoted_lines_alike(tmp_path_factory, names):
    place = tmp_path_factory.mktemp("names")
    (place / "list").write_text(json.dumps(names))
    (place / "lines").write_text("".join(json.dumps(name) + "\n" for name in names))

    assert read_names(str(place / "list")) == names
    assert read_names(str(place / "lines")) == names or names == []


@pytest.mark.parametrize(
    ("text", "named"),
    [(b"ok\n\xff\xfe\n", ":2"), (b'"open\n', ":1"), (b"[1, 2]\n", "list of names"), (b'["a"\n', "list of names")],
)
def test_a_line_that_is_no_name_is_refused_at_its_place(tmp_path, text, named):
    (tmp_path / "names").write_bytes(text)

    with pytest.raises(BadInput, match=named):
        read_names(str(tmp_path / "names"))


def test_words_are_ids_of_the_kind_that_the_index_has(indexes):
    numbers, texts = indexes

    assert typed_ids(["7", "-9", "+8"], numbers) == [7, -9, 8]
    assert typed_ids(["7", "-9"], texts) == ["7", "-9"]
    with pytest.raises(BadInput, match="'x7': not a number"):
        typed_ids(["7", "x7"], numbers)


def test_answers_of_a_search_are_lists_of_ids(indexes, tmp_path):
    hits = tmp_path / "hits.jsonl"
    hits.write_text('{"query":0,"ids":[7,8],"distances":[0.1,0.2]}\n8\n\n{"ids":[]}\n')

    assert listed_ids(str(hits), indexes[0]) == [7, 8, 8]
    hits.write_text('{"ids":"7"}\n')
    with pytest.raises(BadInput, match="ids"):
        listed_ids(str(hits), indexes[0])


@pytest.mark.parametrize(("array", "ids"), [(np.array([3, 1], np.uint8), [3, 1]), (np.array([-5, 2**40]), [-5, 2**40])])
def test_ids_of_an_array_are_integers(tmp_path, array, ids):
    np.save(tmp_path / "v.npy", np.ones((2, 2)))
    np.save(tmp_path / "ids.npy", array)

    assert read_collection(str(tmp_path / "v.npy"), tmp_path / "ids.npy", None).ids == ids


@pytest.mark.parametrize("array", [np.ones(2), np.ones((2, 1), int), np.array(["a", "b"])])
def test_an_array_of_anything_else_is_no_list_of_ids(tmp_path, array):
    np.save(tmp_path / "v.npy", np.ones((2, 2)))
    np.save(tmp_path / "ids.npy", array)

    with pytest.raises(BadInput, match="integers"):
        read_collection(str(tmp_path / "v.npy"), tmp_path / "ids.npy", None)


def test_one_word_that_is_no_number_makes_all_of_them_text(tmp_path):
    np.save(tmp_path / "v.npy", np.ones((3, 2)))
    (tmp_path / "ids").write_text("1\n2\nx\n")

    assert read_collection(str(tmp_path / "v.npy"), tmp_path / "ids", None).ids == ["1", "2", "x"]


def test_lines_of_vectors_bring_their_own_ids_and_tenants(tmp_path):
    lines = [{"id": "a", "vector": [1, 2], "tenants": ["x", "y"]}, {"id": "b", "x": [3, 4], "tenant": "z"}]
    (tmp_path / "v.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    read = read_collection(str(tmp_path / "v.jsonl"), None, None)

    assert (read.ids, [list(names) for names in read.access]) == (["a", "b"], [["x", "y"], ["z"]])
    assert read.vectors.tolist() == [[1, 2], [3, 4]]


def test_vectors_without_ids_cannot_be_added(tmp_path):
    np.save(tmp_path / "v.npy", np.ones((3, 2)))

    with pytest.raises(BadInput, match="--ids"):
        required_ids(read_collection(str(tmp_path / "v.npy"), None, None), "v.npy")


@pytest.mark.parametrize("line", ['{"id":1}', '{"id":1,"tenants":"a"}', '{"id":[1],"tenants":[]}', "no"])
def test_a_wrong_line_of_access_is_named(tmp_path, line):
    path = tmp_path / "access.jsonl"
    path.write_text('{"id":0,"tenants":["a"]}\n' + line + "\n")

    with pytest.raises(BadInput, match=r"access\.jsonl:2"):
        read_access(path)
