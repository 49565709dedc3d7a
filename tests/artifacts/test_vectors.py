"""Vectors and queries: the same rows from every format, and what is wrong named where it is."""

import io
import json
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from llmsys.artifacts import read_queries, read_vectors, write_tensors, write_vectors
from llmsys.errors import BadInput

VALUES = np.array([[0.1, -2.5, 3.0], [1e-40, 3.4e38, -0.0]], np.float32)
FLOAT_NAMES = ["v.npy", "v.fvecs", "v.safetensors", "v.jsonl", "v.jsonl.gz", "v.ndjson.zst"]


@pytest.mark.parametrize("name", FLOAT_NAMES)
def test_rows_and_queries_are_the_same_in_every_format(tmp_path, name):
    path = tmp_path / name
    write_vectors(path, VALUES)
    read = read_vectors(path)
    queries = list(read_queries(str(path), dim=3))

    assert read.values.dtype == np.float32
    np.testing.assert_array_equal(read.values, VALUES)
    assert (read.ids, read.tenants) == (None, None)
    np.testing.assert_array_equal([query.vector for query in queries], VALUES)
    assert [(query.number, query.id, query.tenant) for query in queries] == [(0, 0, None), (1, 1, None)]


@settings(deadline=None)
@given(
    values=hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=6),
        elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
    ),
    name=st.sampled_from(FLOAT_NAMES),
)
def test_float32_reads_back_exactly(tmp_path_factory, values, name):
    path = tmp_path_factory.mktemp("v") / name
    write_vectors(path, values)

    np.testing.assert_array_equal(read_vectors(path).values, values)


@pytest.mark.parametrize(("name", "dtype"), [("v.bvecs", np.uint8), ("v.ivecs", np.int32), ("v.npy", np.float16)])
def test_binary_formats_keep_their_number_type(tmp_path, name, dtype):
    values = np.arange(6).reshape(3, 2).astype(dtype)
    write_vectors(tmp_path / name, values)

    assert read_vectors(tmp_path / name).values.dtype == dtype
    assert [query.vector.dtype for query in read_queries(tmp_path / name)] == [np.float32] * 3


@pytest.mark.parametrize("name", ["v.npy", "v.safetensors", "v.jsonl"])
def test_no_vectors_are_no_rows(tmp_path, name):
    write_vectors(tmp_path / name, np.zeros((0, 4), np.float32))

    assert len(read_vectors(tmp_path / name).values) == 0
    assert list(read_queries(tmp_path / name, dim=9)) == []


def test_ids_and_tenants_go_with_their_lines(tmp_path):
    path = tmp_path / "v.jsonl"
    write_vectors(path, VALUES, ids=["a", 7], tenants=[["acme", "bob"], []])
    read = read_vectors(path)

    assert read.ids == ("a", 7)
    assert read.tenants == (("acme", "bob"), ())


def test_one_tenant_and_x_are_other_spellings(lines_file):
    path = lines_file('{"id":"a","x":[1,2],"tenant":"acme"}', '{"id":"b","vector":[3,4],"tenants":["bob"]}')
    read = read_vectors(path)
    queries = list(read_queries(path))

    assert read.tenants == (("acme",), ("bob",))
    np.testing.assert_array_equal(read.values, [[1, 2], [3, 4]])
    assert [(query.id, query.tenant) for query in queries] == [("a", "acme"), ("b", None)]


def test_a_query_is_answered_before_the_next_line_is_read(monkeypatch):
    class Pipe(io.RawIOBase):
        sent = 0

        def readable(self):
            return True

        def readinto(self, buffer):
            line = b'{"vector":[%d]}\n' % self.sent
            buffer[: len(line)] = line
            self.sent += 1
            return len(line)

    pipe = Pipe()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(pipe)))
    queries = read_queries("-")

    for count in range(1, 4):
        assert next(queries).vector[0] == count - 1
        assert pipe.sent == count


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id":2,"vector":[1]}', "a vector of 1 numbers; expected 2"),
        ('{"id":2,"vector":[]}', r"at `\$.vector`; expected `array` of length >= 1"),
        ('{"id":2}', r"both or neither of `\$.vector` and `\$.x`"),
        ('{"id":2,"vector":[1,2],"x":[1,2]}', "both or neither"),
        ('{"id":2,"vector":[1,1e39]}', "a number beyond float32"),
        ('{"id":2,"vector":[1,1e999]}', "number out of range"),
        ('{"id":2,"vector":[1,NaN]}', "JSON is malformed"),
        ('{"id":2,"vector":[1,"2"]}', r"`str` at `\$.vector\[1\]`; expected `float`"),
        ('{"id":2,"vector":[1,null]}', r"`null` at `\$.vector\[1\]`"),
        ('{"id":2,"vector":[[1,2]]}', r"`array` at `\$.vector\[0\]`"),
        ('{"vector":[1,2]}', "no id; expected ids on every line or on none"),
        ('{"id":1,"vector":[1,2]}', "id 1 a second time"),
        ('{"id":1.5,"vector":[1,2]}', r"`float` at `\$.id`"),
        ('{"id":2,"vector":[1,2],"tenant":3}', r"`int` at `\$.tenant`"),
        ('{"id":2,"vector":[1,2],"tenants":"acme"}', r"`str` at `\$.tenants`"),
    ],
)
def test_a_line_that_does_not_fit_is_named_or_skipped(lines_file, line, message):
    path = lines_file('{"id":1,"vector":[1,2]}', line, '{"id":3,"vector":[5,6]}')
    skipped = []
    read = read_vectors(path, on_error="skip", on_skip=skipped.append)

    with pytest.raises(BadInput, match=r"in\.jsonl:2: .*" + message):
        read_vectors(path)
    assert read.ids == (1, 3)
    np.testing.assert_array_equal(read.values, [[1, 2], [5, 6]])
    assert [error.where for error in skipped] == [f"{path}:2"]


def test_a_query_id_may_come_twice(lines_file):
    path = lines_file('{"id":"q","vector":[1]}', '{"id":"q","vector":[2]}', '{"vector":[3]}')

    assert [query.id for query in read_queries(path)] == ["q", "q", 2]


@pytest.mark.parametrize("name", FLOAT_NAMES)
def test_queries_of_another_dimension_are_refused(tmp_path, name):
    write_vectors(tmp_path / name, VALUES)

    with pytest.raises(BadInput, match=r"of 3 numbers; expected 5"):
        next(read_queries(tmp_path / name, dim=5))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["v.npy", "v.fvecs", "v.safetensors"])
def test_a_number_that_is_none_is_found_in_its_row(tmp_path, monkeypatch, name, bad):
    monkeypatch.setattr("llmsys.artifacts.vectors.CHECK_ROWS", 2)
    values = np.zeros((5, 2), np.float32)
    values[3, 1] = bad
    path = tmp_path / name
    write_vectors(path, values)
    queries = read_queries(path)

    with pytest.raises(BadInput, match=f"{name}: row 3: NaN or infinity"):
        read_vectors(path)
    assert read_vectors(path, check_finite=False).values.shape == (5, 2)
    assert [next(queries).number for _ in range(3)] == [0, 1, 2]
    with pytest.raises(BadInput, match="row 3: NaN or infinity"):
        next(queries)


def test_a_double_beyond_float32_is_no_query(tmp_path):
    write_vectors(tmp_path / "v.npy", np.array([[1e300]]))

    with pytest.raises(BadInput, match="row 0"):
        next(read_queries(tmp_path / "v.npy"))


def test_one_of_several_tensors_is_picked_by_name(tmp_path):
    path = tmp_path / "t.safetensors"
    write_tensors(path, {"train": VALUES, "test": VALUES[:1]})

    np.testing.assert_array_equal(read_vectors(f"{path}:test").values, VALUES[:1])
    with pytest.raises(BadInput, match=r"2 tensors \(test, train\); expected .*:NAME to pick one"):
        read_vectors(path)
    with pytest.raises(BadInput, match="no tensor 'x'; expected one of test, train"):
        read_vectors(f"{path}:x")


@pytest.mark.parametrize("values", [np.zeros(3, np.float32), np.zeros((2, 2, 2), np.float32), np.zeros((2, 2), bool)])
def test_arrays_that_are_no_vectors_are_refused(tmp_path, values):
    np.save(tmp_path / "v.npy", values)

    with pytest.raises(BadInput, match=r"expected numbers of shape \[n, d\]"):
        read_vectors(tmp_path / "v.npy")


@pytest.mark.parametrize("name", ["v.csv", "v", "v.npz", "v.gz"])
def test_another_suffix_lists_the_formats(tmp_path, name):
    (tmp_path / name).touch()

    with pytest.raises(BadInput, match=r"of no vector format; expected \.npy, \.fvecs"):
        read_vectors(tmp_path / name)
    with pytest.raises(ValueError, match=r"expected \.npy, \.fvecs"):
        write_vectors(tmp_path / name, VALUES)


@pytest.mark.parametrize(
    ("name", "values", "columns", "message"),
    [
        ("v.npy", VALUES, {"ids": [1, 2]}, r"holds no ids and no tenants; write \.jsonl"),
        ("v.jsonl", VALUES, {"ids": [1]}, "1 ids for 2 vectors"),
        ("v.jsonl", VALUES, {"tenants": [["a"]]}, "1 tenants for 2 vectors"),
        ("v.jsonl", VALUES[0], {}, r"shape \(3,\); expected \[n, d\]"),
        ("v.jsonl", np.array([[np.nan]]), {}, "no form in JSON"),
        ("v.fvecs", np.zeros((1, 1)), {}, "holds float32, not float64"),
    ],
)
def test_what_a_format_cannot_hold_is_not_written(tmp_path, name, values, columns, message):
    with pytest.raises(ValueError, match=message):
        write_vectors(tmp_path / name, values, **columns)
    assert list(tmp_path.iterdir()) == []


def test_lines_are_plain_json(tmp_path):
    write_vectors(tmp_path / "v.jsonl", VALUES[:1], ids=["a"], tenants=[["acme"]])

    assert json.loads((tmp_path / "v.jsonl").read_bytes()) == {
        "id": "a",
        "vector": [0.1, -2.5, 3.0],
        "tenants": ["acme"],
    }
