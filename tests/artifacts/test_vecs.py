"""TEXMEX files: rows mapped in place, and every way in which a file can be no such file."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from llmsys.artifacts import VECS_DTYPES, read_vecs, write_vecs
from llmsys.errors import BadInput


def row(*numbers, dim=None):
    return struct.pack("<i", len(numbers) if dim is None else dim) + struct.pack(f"<{len(numbers)}f", *numbers)


@settings(deadline=None)
@given(suffix=st.sampled_from(sorted(VECS_DTYPES)), data=st.data())
def test_rows_read_back_equal(tmp_path_factory, suffix, data):
    shape = hnp.array_shapes(min_dims=2, max_dims=2, max_side=9)
    values = data.draw(hnp.arrays(VECS_DTYPES[suffix], shape))
    path = tmp_path_factory.mktemp("vecs") / f"v{suffix}"
    write_vecs(path, values)
    read = read_vecs(path)

    assert read.dtype == values.dtype
    np.testing.assert_array_equal(read, values)


def test_a_file_is_the_dimension_and_the_numbers_of_each_row(tmp_path):
    path = tmp_path / "v.fvecs"
    write_vecs(path, np.array([[1.0, 2.0], [3.0, 4.0]], np.float32))

    assert path.read_bytes() == row(1, 2) + row(3, 4)


def test_many_rows_are_written_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr("llmsys.artifacts.vecs.WRITE_BYTES", 64)
    values = np.arange(700, dtype=np.int32).reshape(100, 7)[:, ::-1]
    write_vecs(tmp_path / "v.ivecs", values)

    np.testing.assert_array_equal(read_vecs(tmp_path / "v.ivecs"), values)


def test_rows_are_mapped_not_copied(tmp_path):
    path = tmp_path / "v.fvecs"
    write_vecs(path, np.ones((4, 3), np.float32))
    values = read_vecs(path)

    assert not values.flags.owndata
    assert not values.flags.writeable
    assert values.strides == (16, 4)


def test_an_empty_file_has_no_rows(tmp_path):
    (tmp_path / "v.fvecs").touch()

    assert read_vecs(tmp_path / "v.fvecs").shape == (0, 0)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (row(1, 2) + row(3) + row(4, 5), "offset 12: row 1 has dimension 1; expected 2 as row 0"),
        (row(1, 2) + row(3, 4, dim=-1), "offset 12: row 1 has dimension -1"),
        (row(1, 2) + row(3, 4)[:-1], "offset 12: 11 bytes of an incomplete row; expected rows of 12 bytes"),
        (row(1, 2)[:5], "offset 0: 5 bytes of an incomplete row"),
        (b"\x01\x00", "offset 0: a first dimension of 1"),
        (struct.pack("<i", 0), "offset 0: a first dimension of 0"),
        (struct.pack("<i", -3) + b"x" * 12, "offset 0: a first dimension of -3"),
        (
            struct.pack("<i", 2**31 - 1) + b"x" * 12,
            "a first dimension of 2147483647; expected an int32",
        ),
        (struct.pack("<i", 2**20) + b"x" * 12, "offset 0: 16 bytes of an incomplete row"),
    ],
)
def test_a_file_that_is_none_is_refused_at_its_offset(tmp_path, data, message):
    path = tmp_path / "v.fvecs"
    path.write_bytes(data)

    with pytest.raises(BadInput, match=message):
        read_vecs(path)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("v.fvecs", np.zeros((2, 2))),
        ("v.bvecs", np.zeros((2, 2), np.int8)),
        ("v.fvecs", np.zeros(2, np.float32)),
        ("v.fvecs", np.zeros((2, 0), np.float32)),
    ],
)
def test_what_the_format_cannot_hold_is_not_written(tmp_path, name, values):
    with pytest.raises(ValueError, match=r"holds|expected \[n, d\]"):
        write_vecs(tmp_path / name, values)
    assert list(tmp_path.iterdir()) == []
