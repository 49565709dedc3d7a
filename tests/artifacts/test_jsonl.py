"""JSON Lines: what is read, what is refused and where, from files that are whole, damaged or hostile."""

import gzip
import io
import sys

import msgspec
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsys.artifacts import MAX_LINE_BYTES, encode, jsonl, read_lines, read_records, write_compressed
from llmsys.errors import BadInput


class Point(msgspec.Struct, frozen=True):
    x: int
    label: str = ""


def pack(data, suffix):
    if suffix == ".gz":
        return gzip.compress(data)
    if suffix == ".zst":
        return zstandard.compress(data)
    return data


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_lines_come_numbered_from_one_without_their_newlines(tmp_path, suffix):
    path = tmp_path / f"in.jsonl{suffix}"
    path.write_bytes(pack(b"a\n\n b \r\nlast", suffix))

    assert list(read_lines(path)) == [(1, b"a"), (2, b""), (3, b" b \r"), (4, b"last")]


def test_dash_reads_stdin(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"x":1}\nnonsense\n')))
    records = read_records("-", Point)

    assert next(records) == Point(1)
    with pytest.raises(BadInput, match=r"^stdin:2: JSON is malformed"):
        next(records)


@settings(deadline=None)
@given(st.lists(st.builds(Point, st.integers(-(2**63), 2**63), st.text())))
def test_encoded_records_read_back_equal(records):
    decoder = msgspec.json.Decoder(Point)
    lines = [encode(record) for record in records]

    assert all(line.count(b"\n") == 1 for line in lines)
    assert [jsonl.decode_record(line, decoder, "here") for line in lines] == records


def test_two_archives_in_one_file_are_one_text(tmp_path):
    for suffix in (".gz", ".zst"):
        path = tmp_path / f"two{suffix}"
        path.write_bytes(pack(b"a\n", suffix) + pack(b"b\n", suffix))

        assert list(read_lines(path)) == [(1, b"a"), (2, b"b")]


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("kept", [0.0, 0.2, 0.5, 0.999])
def test_a_cut_archive_is_refused_by_name(tmp_path, suffix, kept):
    path = tmp_path / f"cut{suffix}"
    packed = pack("".join(f'{{"x":{i * i % 7919}}}\n' for i in range(5000)).encode(), suffix)
    path.write_bytes(packed[: int(len(packed) * kept)])

    with pytest.raises(BadInput, match=r"cut\.\w+: .*complete gzip or zstd file"):
        list(read_lines(path))


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_text_under_the_suffix_of_an_archive_is_refused(tmp_path, suffix):
    path = tmp_path / f"plain{suffix}"
    path.write_bytes(b'{"x": 1}\n')

    with pytest.raises(BadInput, match="a damaged archive"):
        list(read_lines(path))


def test_an_empty_file_has_no_lines(tmp_path):
    path = tmp_path / "empty.jsonl"
    path.touch()

    assert list(read_lines(path)) == []
    assert list(read_records(path, Point)) == []


def test_a_byte_order_mark_is_dropped_only_at_the_start(lines_file):
    path = lines_file(b'\xef\xbb\xbf{"x":1}', b'\xef\xbb\xbf{"x":2}')
    records = read_records(path, Point)

    assert next(records) == Point(1)
    with pytest.raises(BadInput, match=r"in\.jsonl:2: JSON is malformed"):
        next(records)


def test_utf_16_is_named(tmp_path):
    path = tmp_path / "wide.jsonl"
    path.write_text('{"x":1}\n', encoding="utf-16")

    with pytest.raises(BadInput, match=r"wide\.jsonl:1: UTF-16 text; expected UTF-8"):
        list(read_lines(path))


def test_a_line_without_end_is_refused_before_it_is_held(tmp_path, monkeypatch):
    monkeypatch.setattr(jsonl, "MAX_LINE_BYTES", 2**20)
    path = tmp_path / "bomb.zst"
    with write_compressed(path) as stream:
        stream.write(b"short\n" + b"x" * 2**20 + b"\n")
        stream.write(b"y" * (2**20 + 1))
    lines = read_lines(path)

    assert [len(next(lines)[1]), len(next(lines)[1])] == [5, 2**20]
    with pytest.raises(BadInput, match=r"bomb\.zst:3: a line over 1 MiB"):
        next(lines)
    assert MAX_LINE_BYTES == 64 * 2**20


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"x":"1"}', "`str` at `$.x`; expected `int`"),
        ('{"x":1.5}', "`float` at `$.x`; expected `int`"),
        ('{"x":null}', "`null` at `$.x`; expected `int`"),
        ('{"label":"a"}', "object missing required field `x`"),
        ("[1]", "`array`; expected `object`"),
        ("7", "`int`; expected `object`"),
        ('"x"', "`str`; expected `object`"),
        ("null", "`null`; expected `object`"),
        ('{"x":1', "input data was truncated"),
        ('{"x":1} {"x":2}', "JSON is malformed: trailing characters"),
        ('{"x":NaN}', "JSON is malformed"),
        ('{"x":Infinity}', "JSON is malformed"),
        (b'{"x":1,"label":"\xff"}', "not UTF-8 (byte 16)"),
        (b'{"x":1,"unknown":"\xc3("}', "not UTF-8 (byte 18)"),
        ('{"x":1,"unknown":' + "[" * 100_000, "nested too deeply"),
        (b'{"x":1}\x00', "JSON is malformed"),
    ],
)
def test_a_line_that_does_not_fit_is_refused_with_its_place(lines_file, line, message):
    path = lines_file('{"x":1}', "", line)

    with pytest.raises(BadInput) as caught:
        list(read_records(path, Point))
    assert str(caught.value).startswith(f"{path}:3: ")
    assert message in str(caught.value)


def test_fields_of_a_newer_writer_are_passed_over(lines_file):
    path = lines_file('{"x":1,"colour":{"deep":[1,2,"é"]}}')

    assert list(read_records(path, Point)) == [Point(1)]


def test_skipping_hands_every_bad_line_over_and_goes_on(lines_file):
    path = lines_file('{"x":1}', "bad", '{"x":"2"}', '{"x":3}')
    skipped = []
    records = list(read_records(path, Point, on_error="skip", on_skip=skipped.append))

    assert records == [Point(1), Point(3)]
    assert [error.where for error in skipped] == [f"{path}:2", f"{path}:3"]


def test_skipping_does_not_hide_a_damaged_file(tmp_path):
    path = tmp_path / "cut.gz"
    path.write_bytes(gzip.compress(b'{"x":1}\n' * 10_000)[:-20])

    with pytest.raises(BadInput, match="ends too early"):
        list(read_records(path, Point, on_error="skip"))


def test_a_check_refuses_with_its_own_words(lines_file):
    path = lines_file('{"x":1}', '{"x":-1}')
    records = read_records(path, Point, check=lambda point: ("a negative x", "x >= 0") if point.x < 0 else None)

    assert next(records) == Point(1)
    with pytest.raises(BadInput, match=r":2: a negative x; expected x >= 0"):
        next(records)


def test_an_unknown_policy_for_errors_is_refused_at_once(tmp_path):
    with pytest.raises(ValueError, match="on_error is 'ignore'; expected 'fail' or 'skip'"):
        read_records(tmp_path / "none", Point, on_error="ignore")


def test_a_missing_file_raises_its_own_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.jsonl"):
        list(read_lines(tmp_path / "none.jsonl"))


@pytest.mark.parametrize("suffix", [".jsonl", ".gz", ".zst"])
def test_compressed_files_are_the_same_bytes_each_time(tmp_path, suffix):
    paths = [tmp_path / f"{name}{suffix}" for name in "ab"]
    for path in paths:
        with write_compressed(path) as stream:
            stream.write(b"one\ntwo\n")

    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert list(read_lines(paths[0])) == [(1, b"one"), (2, b"two")]
