"""The event log: its first record, its order, its forms on disk."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsys.artifacts import EVENT_KINDS, Event, EventLog, encode, read_events
from llmsys.errors import BadInput

META = Event(0.0, "meta", policy="vtc", reserve="sum", memory=10_000, weights={"a": 1.0, "b": 2.0}, clock="virtual")
EVENTS = [
    META,
    Event(0.0, "arrive", id="r1", tenant="a", prompt_tokens=7, n=3),
    Event(0.5, "admit", id="r1", tenant="a", prompt_tokens=7, cached_tokens=4),
    Event(1.0, "token", id="r1", tenant="a", n=1),
    Event(1.0, "finish", id="r1", tenant="a"),
]
counts = st.integers(0, 2**31 - 1)


@pytest.mark.parametrize("name", ["e.jsonl", "e.jsonl.gz", "e.jsonl.zst"])
def test_a_log_reads_back_as_it_was_written(tmp_path, name):
    with EventLog(tmp_path / name) as log:
        for event in EVENTS:
            log.write(event)

    assert list(read_events(tmp_path / name)) == EVENTS


@settings(deadline=None)
@given(
    st.builds(
        Event,
        t_s=st.floats(0, allow_infinity=False),
        event=st.sampled_from(EVENT_KINDS),
        id=st.text(),
        tenant=st.text(),
        n=counts,
        prompt_tokens=counts,
        weights=st.dictionaries(st.text(), st.floats(0, exclude_min=True, allow_infinity=False), max_size=3),
        output_weight=st.floats(0.1, 10),
    )
)
def test_every_event_reads_back_equal(event):
    assert msgspec.json.decode(encode(event), type=Event) == event


def test_defaults_are_not_written():
    assert encode(EVENTS[3]) == b'{"t_s":1.0,"event":"token","id":"r1","tenant":"a","n":1}\n'


def test_a_log_must_start_with_meta(lines_file):
    path = lines_file('{"t_s":0,"event":"arrive"}')

    with pytest.raises(BadInput, match=r":1: the log starts with 'arrive'; expected a first record with event 'meta'"):
        list(read_events(path))


def test_time_must_not_run_backwards(lines_file):
    path = lines_file('{"t_s":0,"event":"meta"}', '{"t_s":2,"event":"token"}', '{"t_s":1,"event":"token"}')

    with pytest.raises(BadInput, match=r":3: t_s 1.0 after t_s 2.0"):
        list(read_events(path))


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ('"n":-1', r"`\$.n`; expected `int` >= 0"),
        ('"weights":{"a":0}', r"`\$.weights\[...\]`; expected `float` > 0"),
        ('"weights":{"a":"x"}', "expected `float`"),
        ('"cached_tokens":1.5', "expected `int`"),
        ('"t_s":-1', r"`\$.t_s`; expected `float` >= 0"),
        ('"event":""', "expected `str` of length >= 1"),
    ],
)
def test_a_field_that_does_not_fit_is_refused(lines_file, field, message):
    path = lines_file('{"t_s":0,"event":"meta",' + field + "}")

    with pytest.raises(BadInput, match=r":1: .*" + message):
        list(read_events(path))


def test_an_exception_leaves_no_log(tmp_path):
    def stop_halfway():
        with EventLog(tmp_path / "e.jsonl.zst") as log:
            log.write(META)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop_halfway()

    assert list(tmp_path.iterdir()) == []


def test_a_live_log_can_be_read_while_it_grows_and_is_appended_to(tmp_path):
    path = tmp_path / "e.jsonl"
    with EventLog(path, live=True) as log:
        log.write(EVENTS[0])
        log.write(EVENTS[1])
        assert list(read_events(path)) == EVENTS[:2]
    with EventLog(path, live=True) as log:
        log.write(EVENTS[2])

    assert list(read_events(path)) == EVENTS[:3]


def test_a_live_log_is_not_compressed(tmp_path):
    with pytest.raises(ValueError, match="cannot be compressed"):
        EventLog(tmp_path / "e.gz", live=True)


def test_a_torn_last_line_of_a_live_log_can_be_skipped(tmp_path):
    path = tmp_path / "e.jsonl"
    path.write_bytes(encode(META) + encode(EVENTS[1])[:-9])
    skipped = []

    assert list(read_events(path, on_error="skip", on_skip=skipped.append)) == [META]
    assert [error.where for error in skipped] == [f"{path}:2"]


@pytest.mark.parametrize("t_s", [float("nan"), float("inf")])
def test_a_time_that_is_no_number_is_not_written(tmp_path, t_s):
    with EventLog(tmp_path / "e.jsonl") as log, pytest.raises(ValueError, match="expected a finite time"):
        log.write(Event(t_s, "token"))


def test_writing_outside_the_block_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not open"):
        EventLog(tmp_path / "e.jsonl").write(META)


def test_a_systems_own_events_go_into_the_same_log(tmp_path):
    class Unit(msgspec.Struct, frozen=True):
        t_s: float
        event: str
        path: str

    with EventLog(tmp_path / "e.jsonl") as log:
        log.write(META)
        log.write(Unit(1.0, "unit", "$.code"))

    assert [event.event for event in read_events(tmp_path / "e.jsonl")] == ["meta", "unit"]
