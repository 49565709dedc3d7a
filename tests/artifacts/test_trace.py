"""Workload traces: types, ranges and order of arrival."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsys.artifacts import TraceRecord, encode, read_trace
from llmsys.errors import BadInput

LINE = '{"id":"r1","tenant":"acme","arrival_s":1.5,"prompt_tokens":10,"output_tokens":3}'
counts = st.integers(0, 2**31 - 1)
records = st.builds(
    TraceRecord,
    id=st.text(min_size=1),
    tenant=st.text(min_size=1),
    arrival_s=st.floats(0, allow_infinity=False),
    prompt_tokens=counts,
    output_tokens=counts,
    adapter=st.none() | st.text(min_size=1),
    group=st.none() | st.text(),
    prefix=st.lists(st.integers(0, 2**63), max_size=3).map(tuple),
    priority=st.integers(-100, 100),
)


def arrivals(*times):
    return [encode(TraceRecord(str(n), "a", time, 1, 1)).strip() for n, time in enumerate(times)]


def test_the_five_fields_are_enough(lines_file):
    assert list(read_trace(lines_file(LINE))) == [TraceRecord("r1", "acme", 1.5, 10, 3)]


def test_defaults_are_not_written():
    assert encode(TraceRecord("r1", "acme", 1.5, 10, 3)).decode() == LINE + "\n"


@settings(deadline=None)
@given(records)
def test_every_record_reads_back_equal(record):
    assert msgspec.json.decode(encode(record), type=TraceRecord) == record


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("1.5", "-0.1", r"at `\$.arrival_s`; expected `float` >= 0"),
        ("1.5", "NaN", "JSON is malformed"),
        ("1.5", "1e999", r"number out of range - at `\$.arrival_s`"),
        ("1.5", '"1.5"', r"`str` at `\$.arrival_s`; expected `float`"),
        (":10", ":-10", r"at `\$.prompt_tokens`; expected `int` >= 0"),
        (":10", ":10.5", r"`float` at `\$.prompt_tokens`; expected `int`"),
        (":10", ":2147483648", r"at `\$.prompt_tokens`; expected `int` <= 2147483647"),
        (":3", ":true", r"`bool` at `\$.output_tokens`; expected `int`"),
        ('"acme"', '""', r"at `\$.tenant`; expected `str` of length >= 1"),
        ('"id":"r1",', "", "object missing required field `id`"),
    ],
)
def test_a_field_that_does_not_fit_is_refused(lines_file, old, new, message):
    path = lines_file(LINE, LINE.replace(old, new))

    with pytest.raises(BadInput, match=r"in\.jsonl:2: .*" + message):
        list(read_trace(path))


def test_a_record_before_its_time_is_refused(lines_file):
    path = lines_file(*arrivals(0.0, 2.0, 2.0, 1.0))

    with pytest.raises(BadInput, match=r":4: arrival_s 1.0 after a record that arrived at 2.0"):
        list(read_trace(path))


def test_skipping_drops_the_late_record_alone(lines_file):
    path = lines_file(*arrivals(0.0, 2.0, 1.0, 3.0))
    skipped = []
    read = list(read_trace(path, on_error="skip", on_skip=skipped.append))

    assert [record.arrival_s for record in read] == [0.0, 2.0, 3.0]
    assert [error.where for error in skipped] == [f"{path}:3"]


@settings(deadline=None)
@given(times=st.lists(st.integers(0, 20), max_size=30), reorder_s=st.integers(1, 20))
def test_reordering_sorts_what_is_at_most_that_late(tmp_path_factory, times, reorder_s):
    path = tmp_path_factory.mktemp("trace") / "t.jsonl"
    path.write_bytes(b"\n".join(arrivals(*times)))
    kept = [time for n, time in enumerate(times) if time >= max(times[:n], default=0) - reorder_s]
    read = list(read_trace(path, on_error="skip", reorder_s=reorder_s))

    assert [record.arrival_s for record in read] == sorted(kept)
    assert [(record.arrival_s, int(record.id)) for record in read] == sorted(
        (record.arrival_s, int(record.id)) for record in read
    )


def test_reordering_holds_back_no_more_than_it_must(lines_file):
    path = lines_file(*arrivals(1.0, 0.5, 5.0), "nonsense")
    read = read_trace(path, reorder_s=1.0)

    assert [next(read).arrival_s, next(read).arrival_s] == [0.5, 1.0]
    with pytest.raises(BadInput, match=":4"):
        next(read)


@pytest.mark.parametrize("reorder_s", [-1.0, float("nan")])
def test_a_reordering_time_below_zero_is_refused(lines_file, reorder_s):
    with pytest.raises(ValueError, match="reorder_s"):
        read_trace(lines_file(LINE), reorder_s=reorder_s)
