"""safetensors: round trips with numpy and torch, one metadata key, and headers that lie."""

import json
import resource
import subprocess
import sys

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors import safe_open

from llmsys.artifacts import open_tensors, write_tensors
from llmsys.errors import BadInput

arrays = st.dictionaries(
    st.text(min_size=1).filter(lambda name: name != "__metadata__"),
    hnp.arrays(
        st.sampled_from(["?", "u1", "i1", "<u2", "<i4", "<i8", "<f2", "<f4", "<f8"]),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
    ),
    max_size=4,
)
F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


class Note(msgspec.Struct):
    codec: str
    bits: float


def file_of(tmp_path, header, data=b"", *, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = tmp_path / "t.safetensors"
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


@settings(deadline=None)
@given(tensors=arrays)
def test_arrays_read_back_equal(tmp_path_factory, tensors):
    path = tmp_path_factory.mktemp("st") / "t.safetensors"
    write_tensors(path, tensors)
    opened = open_tensors(path)

    assert set(opened.tensors) == set(tensors)
    for name, array in tensors.items():
        read = opened.array(name)
        assert (read.dtype, read.shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(read, array)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.int64, torch.bool])
def test_torch_tensors_read_back_equal(tmp_path, dtype):
    path = tmp_path / "t.safetensors"
    tensors = {"w": torch.arange(12).reshape(3, 4).to(dtype), "t": torch.arange(12).reshape(3, 4).to(dtype).T}
    write_tensors(path, tensors)
    opened = open_tensors(path)

    for name, tensor in tensors.items():
        assert opened.tensor(name).dtype == dtype
        assert torch.equal(opened.tensor(name), tensor)


@pytest.mark.parametrize(
    "array", [np.arange(6, dtype=">f4").reshape(2, 3), np.arange(6.0).reshape(2, 3).T, np.array(7)]
)
def test_layouts_and_byte_orders_of_memory_do_not_show(tmp_path, array):
    path = tmp_path / "t.safetensors"
    write_tensors(path, {"a": array})

    np.testing.assert_array_equal(open_tensors(path).array("a"), array)


def test_other_readers_of_the_format_read_our_files_and_we_theirs(tmp_path):
    path = tmp_path / "t.safetensors"
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    write_tensors(path, {"a": array}, document={"codec": "tq"})
    with safe_open(path, framework="np") as theirs:
        np.testing.assert_array_equal(theirs.get_tensor("a"), array)
        assert theirs.metadata() == {"llmsys": '{"codec":"tq"}'}
    from safetensors.numpy import save_file

    save_file({"b": array}, path, metadata={"one": "1", "two": "2"})

    np.testing.assert_array_equal(open_tensors(path).array("b"), array)
    assert open_tensors(path).metadata == {"one": "1", "two": "2"}


def test_the_same_input_gives_the_same_bytes_in_every_process(tmp_path):
    script = """
import sys
from pathlib import Path
import numpy as np
from llmsys.artifacts import write_tensors
arrays = {name: np.full(3, n, np.float32) for n, name in enumerate("dacb")}
write_tensors(Path(sys.argv[1]), arrays, document={key: key for key in "qwertzuiop"})
"""
    for name in "ab":
        subprocess.run([sys.executable, "-c", script, tmp_path / name], check=True)

    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_document_reads_back_typed_and_without_one_peft_finds_its_key(tmp_path):
    path = tmp_path / "t.safetensors"
    write_tensors(path, {"a": np.zeros(1)}, document=Note("tq", 2.5))

    assert open_tensors(path).document(Note) == Note("tq", 2.5)
    with pytest.raises(BadInput, match=r"metadata 'llmsys': `object`; expected `int`"):
        open_tensors(path).document(int)
    write_tensors(path, {"a": np.zeros(1)})
    assert open_tensors(path).metadata == {"format": "pt"}
    with pytest.raises(BadInput, match="metadata 'llmsys': not there"):
        open_tensors(path).document(Note)


def test_an_unknown_name_lists_the_known_ones(tmp_path):
    path = tmp_path / "t.safetensors"
    write_tensors(path, {"a": np.zeros(1), "b": np.zeros(1)})

    for read in (open_tensors(path).array, open_tensors(path).tensor):
        with pytest.raises(BadInput, match="no tensor 'c'; expected one of a, b"):
            read("c")


def test_bfloat16_is_not_numpys(tmp_path):
    path = tmp_path / "t.safetensors"
    write_tensors(path, {"a": torch.zeros(2, dtype=torch.bfloat16)})

    with pytest.raises(BadInput, match="tensor 'a' of type BF16"):
        open_tensors(path).array("a")


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"a": np.zeros(1), "b": torch.zeros(1)}, "a mixture"),
        ({"a": np.zeros(1, object)}, "dtype object"),
        ({"a": np.zeros(1, "S3")}, "dtype |S3"),
        ({"a": (shared := torch.zeros(4)), "b": shared}, "share"),
    ],
)
def test_what_the_format_cannot_hold_is_not_written(tmp_path, tensors, message):
    with pytest.raises(ValueError, match=message):
        write_tensors(tmp_path / "t.safetensors", tensors)
    assert list(tmp_path.iterdir()) == []


def test_permissions_are_those_of_any_new_file(tmp_path):
    write_tensors(tmp_path / "t.safetensors", {"a": np.zeros(1)})
    (tmp_path / "reference").touch()

    assert (tmp_path / "t.safetensors").stat().st_mode == (tmp_path / "reference").stat().st_mode


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        ({"a": F32}, b"x" * 7, "7 bytes of data; expected 8"),
        ({"a": F32}, b"x" * 9, "9 bytes of data; expected 8"),
        ({"a": F32 | {"data_offsets": [0, 4]}}, b"x" * 4, r"4 bytes for shape \(2,\) of F32"),
        ({"a": F32 | {"data_offsets": [4, 12]}}, b"x" * 12, "data from offset 4; expected 0"),
        ({"a": F32, "b": F32 | {"data_offsets": [4, 12]}}, b"x" * 12, "data from offset 4; expected 8"),
        ({"a": F32, "b": F32}, b"x" * 8, "b: data from offset 0; expected 8"),
        ({"a": F32 | {"data_offsets": [8, 0]}}, b"x" * 8, "-8 bytes for shape"),
        ({"a": F32 | {"data_offsets": [-8, 0]}}, b"", "data from offset -8"),
        ({"a": F32 | {"shape": [-2]}}, b"x" * 8, r"shape \(-2,\)"),
        ({"a": F32 | {"shape": [2**62, 2**62, 0]}, "b": F32}, b"x" * 8, "8 bytes for shape"),
        ({"a": F32 | {"shape": [2**62, 2**62]}}, b"x" * 8, "8 bytes for shape"),
        ({"a": F32 | {"dtype": "OBJECT"}}, b"x" * 8, "type 'OBJECT'; expected one of BOOL"),
        ({"a": F32 | {"shape": [2.0]}}, b"x" * 8, r"a: `float` at `\$.shape\[0\]`; expected `int`"),
        ({"a": {"dtype": "F32", "shape": [2]}}, b"", "missing required field `data_offsets`"),
        ({"a": 3}, b"", "a: `int`; expected `object`"),
        ([F32], b"", "header: `array`; expected `object`"),
        ({"__metadata__": {"a": 1}}, b"", "__metadata__: `int`"),
        (b"{", b"", "header: input data was truncated"),
        (b"", b"", "header: input data was truncated"),
        (b'{"a":' + b"[" * 200_000, b"", "nested too deeply"),
        (b'{"\xff":{}}', b"", "not UTF-8"),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path, header, data, message):
    with pytest.raises(BadInput, match=message):
        open_tensors(file_of(tmp_path, header, data))


@pytest.mark.parametrize("data", [b"", b"\x01", b"\x00" * 7])
def test_a_file_too_short_for_a_length_is_refused(tmp_path, data):
    path = tmp_path / "t.safetensors"
    path.write_bytes(data)

    with pytest.raises(BadInput, match=r"offset 0: a header of \d+ bytes in a file of \d"):
        open_tensors(path)


@pytest.mark.parametrize("length", [100, 10 * 2**30, 2**64 - 1])
def test_a_header_longer_than_its_file_is_refused(tmp_path, length):
    with pytest.raises(BadInput, match=f"offset 0: a header of {length} bytes in a file of"):
        open_tensors(file_of(tmp_path, {}, length=length))


def test_a_ten_gigabyte_header_is_refused_before_it_is_read(tmp_path):
    path = file_of(tmp_path, b"{}", length=10 * 2**30)
    with path.open("r+b") as stream:
        stream.truncate(8 + 10 * 2**30)  # sparse: the length is true now
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    with pytest.raises(BadInput, match=r"a header of 10737418240 bytes; expected at most 67108864"):
        open_tensors(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # KiB: under 1 GiB
