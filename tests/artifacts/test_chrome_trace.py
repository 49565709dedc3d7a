"""Timelines: valid JSON with one row per track and times in microseconds."""

import gzip
import json

import pytest

from llmsys.artifacts import Span, write_chrome_trace

SPANS = [Span("decode", "request a", 0.5, 1.25, {"tokens": 7}), Span("call", "tool", 1.0, 0.0), Span("x", "tool", 2, 1)]


def test_spans_become_complete_events_in_rows_of_their_track(tmp_path):
    path = tmp_path / "t.json"
    write_chrome_trace(path, SPANS)
    events = json.loads(path.read_bytes())["traceEvents"]
    rows = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}
    bars = [event for event in events if event["ph"] == "X"]

    assert rows == {1: "request a", 2: "tool"}
    assert [(bar["name"], rows[bar["tid"]], bar["ts"], bar["dur"]) for bar in bars] == [
        ("decode", "request a", 500_000.0, 1_250_000.0),
        ("call", "tool", 1_000_000.0, 0.0),
        ("x", "tool", 2_000_000.0, 1_000_000.0),
    ]
    assert bars[0]["args"] == {"tokens": 7}


def test_rows_stand_in_the_order_of_their_first_span(tmp_path):
    write_chrome_trace(tmp_path / "t.json", SPANS)
    events = json.loads((tmp_path / "t.json").read_bytes())["traceEvents"]

    assert [event["args"]["sort_index"] for event in events if event["name"] == "thread_sort_index"] == [1, 2]


def test_no_spans_are_still_a_trace(tmp_path):
    write_chrome_trace(tmp_path / "t.json.gz", [])

    assert json.loads(gzip.decompress((tmp_path / "t.json.gz").read_bytes()))["traceEvents"] == []


@pytest.mark.parametrize(
    ("start_s", "duration_s"), [(float("nan"), 1), (float("inf"), 1), (0, -1e-9), (0, float("nan")), (0, float("inf"))]
)
def test_times_that_no_viewer_shows_are_refused(start_s, duration_s):
    with pytest.raises(ValueError, match="expected finite times and a duration >= 0"):
        Span("x", "y", start_s, duration_s)


def test_spans_that_fail_halfway_leave_no_file(tmp_path):
    def spans():
        yield SPANS[0]
        raise RuntimeError("died")

    with pytest.raises(RuntimeError, match="died"):
        write_chrome_trace(tmp_path / "t.json", spans())
    assert list(tmp_path.iterdir()) == []
