"""`.npy` files: mapped when whole, refused when they lie, never unpickled."""

import io
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from llmsys.artifacts import read_npy, read_npy_runs, read_npy_stream, write_npy
from llmsys.errors import BadInput

numbers = hnp.arrays(
    st.sampled_from(["?", "u1", "i1", "<i2", "<u4", "<i8", "<f2", "<f4", "<f8"]),
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
)


def saved(array, **settings):
    stream = io.BytesIO()
    np.save(stream, array, **settings)
    return stream.getvalue()


def with_header(text, data=b"", version=(1, 0)):
    size = {1: 2, 2: 4, 3: 4}[version[0]]
    packed = text.encode("latin1")
    return b"\x93NUMPY" + bytes(version) + len(packed).to_bytes(size, "little") + packed + data


def write(tmp_path, data):
    path = tmp_path / "a.npy"
    path.write_bytes(data)
    return path


@settings(deadline=None)
@given(array=numbers, order=st.sampled_from("CF"))
def test_arrays_read_back_equal_from_files_and_streams(tmp_path_factory, array, order):
    path = tmp_path_factory.mktemp("npy") / "a.npy"
    write_npy(path, np.asarray(array, order=order))
    read = [read_npy(path), *read_npy_stream(io.BytesIO(path.read_bytes() * 2), "stdin")]

    assert len(read) == 3
    for each in read:
        assert (each.dtype, each.shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(each, array)


def test_a_file_is_mapped_and_cannot_be_written_through(tmp_path):
    array = read_npy(write(tmp_path, saved(np.ones((3, 2), np.float32))))

    assert isinstance(array, np.memmap)
    assert not array.flags.writeable


def test_a_pickle_is_refused_and_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    for data in (saved(np.array([Bomb()], object), allow_pickle=True), pickle.dumps(Bomb())):
        with pytest.raises(BadInput, match=r"pickle|starts with"):
            read_npy(write(tmp_path, data))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("cut", [0, 3, 6, 7, 9, 40, 127, 128, 140])
def test_a_cut_file_is_refused(tmp_path, cut):
    data = saved(np.arange(4, dtype=np.float32))[:cut]

    with pytest.raises(BadInput, match=r"a\.npy"):
        read_npy(write(tmp_path, data))
    if cut:
        with pytest.raises(BadInput, match=r"stdin: array at offset 0"):
            list(read_npy_stream(io.BytesIO(data), "stdin"))


def test_bytes_after_the_array_are_refused_in_a_file(tmp_path):
    with pytest.raises(BadInput, match=r"offset 128: 9 bytes of data for shape \(2,\) of float32; expected 8 bytes"):
        read_npy(write(tmp_path, saved(np.zeros(2, np.float32)) + b"x"))


@pytest.mark.parametrize("dtype", [">f4", ">i8", "<c8", "S3", "<U2", "<M8[s]", [("a", "<f4")]])
def test_types_that_are_no_plain_numbers_are_refused_both_ways(tmp_path, dtype):
    array = np.zeros(2, dtype)

    with pytest.raises(BadInput, match="expected little-endian bool, integers or floats"):
        read_npy(write(tmp_path, saved(array)))
    with pytest.raises(ValueError, match="expected native bool"):
        write_npy(tmp_path / "b.npy", array)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (with_header("{'descr':'<f4','fortran_order':False,'shape':(2**40,)}"), "no .npy header"),
        (with_header(f"{{'descr':'<f4','fortran_order':False,'shape':({2**40},{2**40}),}}"), "0 bytes of data"),
        (with_header("{'descr':'<f4','fortran_order':False,'shape':(-4,),}", b"x" * 16), r"shape \(-4,\)"),
        (with_header("{'descr':'<f4','fortran_order':False,'shape':(2,-2),}"), r"shape \(2, -2\)"),
        (with_header("{'descr':'<f4','shape':(1,)}", b"x" * 4), "no .npy header"),
        (with_header("(" * 8000), "no .npy header"),
        (with_header("__import__('os').system('true')"), "no .npy header"),
        (with_header("{'descr':'O','fortran_order':False,'shape':(1,),}", b"x" * 8), "Python objects"),
        (with_header("[1]"), "no .npy header"),
        (with_header("{'descr':'<f4','fortran_order':1,'shape':(1,),}", b"x" * 4), "fortran_order 1; expected True"),
        (with_header("{'descr':'<f4','fortran_order':False,'shape':(True,),}", b"x" * 4), r"shape \(True,\)"),
        (with_header("{'descr':'<f4','fortran_order':False,'shape':(1.0,),}", b"x" * 4), r"shape \(1.0,\)"),
        (with_header("{'descr':'<zz','fortran_order':False,'shape':(1,),}", b"x" * 4), "no .npy header"),
        (with_header(""), "no .npy header"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + b" " * 64, "a header of 4294967295 bytes; expected at most"),
        (with_header("{}", version=(3, 0)), "version 3.0; expected version 1.0 or 2.0"),
        (b"\x93NUMPY\x09\x09", "version 9.9"),
        (b"PK\x03\x04archive", "starts with b'PK"),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path, data, message):
    with pytest.raises(BadInput, match=message):
        read_npy(write(tmp_path, data))


def test_a_stream_that_claims_a_terabyte_costs_what_it_sends():
    data = with_header(f"{{'descr':'<f8','fortran_order':False,'shape':({2**37},),}}", b"x" * 100)

    with pytest.raises(BadInput, match="the stream ends after 100 bytes of data; expected 1099511627776 bytes"):
        list(read_npy_stream(io.BytesIO(data), "stdin"))


def test_the_second_array_of_a_stream_is_named_by_its_offset():
    data = saved(np.zeros(2, np.float32))

    with pytest.raises(BadInput, match="stdin: array at offset 136"):
        list(read_npy_stream(io.BytesIO(data + data[:-1]), "stdin"))


def test_runs_of_rows_join_to_the_arrays_of_a_stream():
    arrays = [np.arange(700).reshape(7, 100), np.float64(2), np.zeros((0, 3)), np.asfortranarray(np.ones((4, 5)))]
    stream = io.BytesIO()
    for array in arrays:
        np.save(stream, array)
    stream.seek(0)
    runs = list(read_npy_runs(stream, "in", run_bytes=1700))

    assert [(run.whole, run.first_row, run.rows.shape) for run in runs] == [
        ((7, 100), 0, (2, 100)),
        ((7, 100), 2, (2, 100)),
        ((7, 100), 4, (2, 100)),
        ((7, 100), 6, (1, 100)),
        ((), 0, ()),
        ((0, 3), 0, (0, 3)),
        ((4, 5), 0, (4, 5)),
    ]
    assert np.array_equal(np.concatenate([run.rows for run in runs[:4]]), arrays[0])
    assert np.array_equal(runs[-1].rows, arrays[-1])
