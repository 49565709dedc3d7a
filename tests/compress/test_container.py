"""The file: strangers can open it, rows read only their chunks, and no damaged or hostile file does harm."""

import json
from contextlib import suppress

import msgspec
import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from llmsys.compress.container import Container
from llmsys.compress.container_writer import _header
from llmsys.compress.decoding import Archive
from llmsys.compress.records import DOCUMENT_KEY, Chunk, TensorEntry, checksum_of
from llmsys.errors import BadInput
from tests.compress.conftest import encode_file, read_back


@pytest.fixture(scope="module")
def small_file(tmp_path_factory):
    """A compressed file of some 5 KB and its bytes: a `tq`, a lossless, a raw and a constant tensor."""
    from safetensors.numpy import save_file

    path = tmp_path_factory.mktemp("small")
    rng = np.random.default_rng(0)
    tensors = {
        "w": rng.standard_normal((64, 70)).astype(np.float16),
        "c": np.full((64, 70), 2.5, np.float32),
        "v": rng.standard_normal(40).astype(np.float32),
    }
    save_file(tensors, path / "in.safetensors")
    encode_file(path / "in.safetensors", path / "out.safetensors", bits=4.0)
    return path / "out.safetensors"


def rewritten(data, change):
    """The file with its header changed by a function of the JSON, the lengths made to fit."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    document = json.loads(header["__metadata__"][DOCUMENT_KEY])
    change(document)
    with suppress(msgspec.DecodeError):  # a record that is none has no checksum to be right
        packed = json.dumps(document["tensors"]).encode()
        document["checksum"] = checksum_of(msgspec.json.decode(packed, type=dict[str, TensorEntry]))
    header["__metadata__"][DOCUMENT_KEY] = json.dumps(document)
    packed = json.dumps(header).encode()
    return len(packed).to_bytes(8, "little") + packed + data[8 + length :]


def test_a_stranger_sees_arrays_of_bytes_and_one_metadata_key(small_file):
    with safe_open(small_file, framework="np") as opened:
        assert list(opened.metadata()) == [DOCUMENT_KEY]
        assert {name: opened.get_tensor(name).dtype.name for name in ("w", "c", "v")} == {
            "w": "uint8",
            "c": "uint8",
            "v": "float32",
        }


def test_the_same_input_gives_the_same_bytes(model_dir, tmp_path):
    for name in ("one", "two"):
        encode_file(model_dir, tmp_path / name, bits=3.0, jobs=2 if name == "two" else 1)

    assert (tmp_path / "one/model.safetensors").read_bytes() == (tmp_path / "two/model.safetensors").read_bytes()


def test_rows_read_their_chunks_and_no_more(tmp_path):
    """A sparse file of 2 GiB of float16 in 1024 chunks: 64 rows of it cost one chunk."""
    lines, width, chunk = 256, 4096, bytes(1 << 21)
    digest = xxhash.xxh3_64_intdigest(chunk)
    table = tuple(Chunk(i * lines, lines, i * len(chunk), len(chunk), digest) for i in range(1024))
    shape = (1024 * lines, width)
    entry = TensorEntry(shape, "f16", "raw", width, (0, xxhash.xxh3_64_intdigest(b"")), table)
    header = _header({"big": entry}, {"big": entry})
    path = tmp_path / "big.safetensors"
    with path.open("wb") as stream:
        stream.write(len(header).to_bytes(8, "little") + header)
        stream.truncate(8 + len(header) + entry.stored_bytes)
    with Container(path) as opened:
        words = opened.words("big", 777 * lines * width, (777 * lines + 64) * width)

        assert len(words) == 64 * width
        assert opened.bytes_read == len(chunk)
        assert opened.size > 2**31


def test_rows_equal_the_slice_of_the_whole(k_proj, tmp_path):
    big = np.tile(k_proj, (12, 1))
    np.save(tmp_path / "big.npy", big)
    encode_file(tmp_path / "big.npy", tmp_path / "big.safetensors", bits=3.0, trellis=0)
    whole = read_back(tmp_path / "big.safetensors")["big"]
    with Archive(tmp_path / "big.safetensors") as archive:
        for rows in ((0, 1), (5, 5), (1700, 1900), (0, len(big))):
            assert (archive.array("big", rows=rows) == whole[slice(*rows)]).all()


def test_every_flipped_byte_is_refused_or_changes_nothing(small_file, tmp_path):
    data = small_file.read_bytes()
    expected = read_back(small_file)
    rng = np.random.default_rng(0)
    target = tmp_path / "bad.safetensors"
    for at in range(0, len(data), 3):
        damaged = bytearray(data)
        damaged[at] ^= 1 << int(rng.integers(8))
        target.write_bytes(damaged)
        assert harmless(target, expected), f"byte {at}"


def harmless(path, expected):
    """Whether a file is refused by name, or gives just what it should."""
    try:
        found = read_back(path)
    except BadInput as error:
        return str(path) in str(error)
    return set(found) == set(expected) and all(np.array_equal(found[name], expected[name]) for name in expected)


def test_every_truncation_is_refused(small_file, tmp_path):
    data = small_file.read_bytes()
    target = tmp_path / "cut.safetensors"
    for length in range(0, len(data), 7):
        target.write_bytes(data[:length])
        with pytest.raises(BadInput, match=r"cut\.safetensors"):
            read_back(target)


def change_entry(name, **fields):
    def change(document):
        document["tensors"][name] |= fields

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(version=2), "format version 2; expected version 1"),
        (change_entry("w", codec="zip"), "codec 'zip'"),
        (change_entry("w", dtype="f12"), "number format 'f12'"),
        (change_entry("w", shape=[1 << 31, 1 << 31]), "values in lines of 70"),
        (change_entry("w", shape=[1 << 70]), "values in lines of 70"),
        (change_entry("w", shape=[-5, 70]), "no record of tensors"),
        (change_entry("w", width=0), "lines of 0 values"),
        (change_entry("w", chunks=[]), "bytes in its table"),
        (change_entry("w", chunks=[[0, 64, 1 << 40, 10, 0]]), "bytes in its table"),
        (change_entry("w", side=[1 << 40, 0]), "bytes in its table"),
        (change_entry("c", shape=[1 << 62]), None),
        (lambda d: d["tensors"].update(ghost=d["tensors"]["w"]), "ghost: a record without its bytes"),
        (lambda d: d["tensors"].update(v=d["tensors"]["w"]), "v: a record without its bytes"),
        (change_entry("v", shape=[20, 2]), "a record of f32"),
        (change_entry("v", dtype="u32"), "a record of u32"),
    ],
)
def test_a_header_that_lies_is_refused_before_anything_is_allocated(small_file, tmp_path, change, message):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(rewritten(small_file.read_bytes(), change))
    if message is None:  # a constant may honestly be huge: opening and asking for three values is cheap
        with Container(path) as opened:
            assert opened.words("c", 5, 8).view(np.float32).tolist() == [2.5] * 3
        return

    with pytest.raises(BadInput, match=message):
        read_back(path)


def test_chunks_that_overlap_or_leave_lines_out_are_refused(small_file, tmp_path):
    def change(document):
        entry = document["tensors"]["w"]
        first, lines, offset, length, checksum = entry["chunks"][0]
        entry["chunks"] = [[first, lines // 2, offset, length, checksum]]

    path = tmp_path / "bad.safetensors"
    path.write_bytes(rewritten(small_file.read_bytes(), change))

    with pytest.raises(BadInput, match="chunks of 32 lines"):
        read_back(path)


JSON = st.recursive(st.none() | st.integers() | st.text(), st.lists, max_leaves=8)
FIELDS = st.sampled_from(["shape", "dtype", "codec", "width", "side", "chunks", "params", "nmse", "x"])


@settings(max_examples=100)
@given(st.dictionaries(FIELDS, JSON))
def test_no_document_makes_the_reader_fail(small_file, tmp_path_factory, document):
    path = tmp_path_factory.mktemp("fuzz") / "bad.safetensors"

    path.write_bytes(rewritten(small_file.read_bytes(), change_entry("w", **document)))

    assert harmless(path, read_back(small_file))


def test_a_plain_safetensors_file_is_told_from_one_of_ours(model_dir):
    with pytest.raises(BadInput, match="a file that `llmsys compress encode` wrote"):
        read_back(model_dir / "model.safetensors")
