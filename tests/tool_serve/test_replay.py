"""Replay: closed forms over traces, equal to what the policies really took, and bounded by the theorem."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsys.errors import BadInput, UsageFault
from llmsys.tool_serve.replay import mean_saving, policies_of, rates_of, read_trace, replay

UNITS = st.lists(
    st.fixed_dictionaries({"tokens": st.integers(0, 50), "work_s": st.floats(0, 5)}), min_size=1, max_size=6
)


def replayed(path, lines, rates=(10.0,), **options):
    path.write_text("".join(json.dumps(one) + "\n" for one in lines))
    turns = read_trace(str(path), rates, on_error="fail", on_skip=lambda fault: None)
    return list(replay(turns, concurrency=options.get("concurrency", 64)))


@given(UNITS, st.integers(0, 30))
def test_partial_is_between_half_of_blocking_and_seal(tmp_path_factory, units, rest):
    path = tmp_path_factory.mktemp("trace") / "t.jsonl"
    (turn,) = replayed(path, [{"call": "a", "units": units, "rest_tokens": rest}])

    slack = 1e-9 * (1 + turn.blocking_s)
    assert turn.partial_s <= turn.seal_s + slack <= turn.blocking_s + 2 * slack
    assert turn.partial_s >= turn.blocking_s / 2 - slack
    assert turn.partial_s >= max(turn.decode_s, turn.work_s) - slack


def test_two_equal_units_at_balance_save_what_the_theorem_says(tmp_path):
    """n equal units whose work is the time they take to write: (n - 1) / 2n of blocking is saved."""
    units = [{"tokens": 10, "work_s": 1.0}] * 4
    (turn,) = replayed(tmp_path / "t.jsonl", [{"call": "a", "units": units}])

    assert (turn.blocking_s, turn.seal_s, turn.partial_s) == (8.0, 8.0, 5.0)
    assert turn.partial_saves == pytest.approx(3 / 8)


def test_an_assumed_call_is_replayed_at_each_rate(tmp_path):
    turns = replayed(
        tmp_path / "t.jsonl", [{"call": "a", "units": [{"tokens": 20, "work_s": 1.0}]}], rates=(10.0, 20.0)
    )

    assert [(one.rate, one.decode_s) for one in turns] == [(10.0, 2.0), (20.0, 1.0)]


def test_recorded_calls_belong_to_the_turn_that_wrote_them(tmp_path):
    """Ids repeat from turn to turn; the first turn's call works for 1 s from its unit at 1 s, the second's for 2 s."""

    def event(t_s, name, **more):
        return {"t_s": t_s, "event": name, "request": "a", "call": "c0"} | more

    lines = [
        *(event(0.5, "call_open"), event(2.0, "unit", unit=0, start_s=1.0, end_s=2.0), event(3.0, "sealed")),
        *(event(3.0, "result"), event(10.5, "call_open"), event(11.0, "sealed")),
        *(event(13.0, "feed_end", start_s=11.0, end_s=13.0), event(13.0, "result")),
        {"t_s": 4.0, "event": "decoding", "request": "a", "unit": 0, "start_s": 0.0, "end_s": 4.0},
        {"t_s": 11.0, "event": "decoding", "request": "a", "unit": 1, "start_s": 10.0, "end_s": 11.0},
    ]
    first, second = replayed(tmp_path / "t.jsonl", lines)

    assert (first.blocking_s, first.seal_s, first.partial_s) == (5.0, 4.0, 4.0)
    assert (second.blocking_s, second.seal_s, second.partial_s) == (3.0, 3.0, 3.0)
    assert mean_saving([first, second]) == {"seal": 1 - 7 / 8, "partial": 1 - 7 / 8}


def test_the_bound_of_calls_at_work_at_once_holds_calls_back(tmp_path):
    def event(t_s, name, call, **more):
        return {"t_s": t_s, "event": name, "request": "a", "call": call} | more

    lines = [{"t_s": 1.0, "event": "decoding", "request": "a", "unit": 0, "start_s": 0.0, "end_s": 1.0}]
    for call in ("c0", "c1"):
        lines += [event(0.0, "call_open", call), event(1.0, "sealed", call)]
        lines += [event(4.0, "feed_end", call, start_s=1.0, end_s=4.0), event(4.0, "result", call)]

    assert replayed(tmp_path / "t.jsonl", lines)[0].partial_s == 4.0
    assert replayed(tmp_path / "t.jsonl", lines, concurrency=1)[0].partial_s == 6.0


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"call": "a", "units": []}, "no units"),
        ({"call": "a", "units": [{"tokens": -1, "work_s": 0}]}, "below 0"),
        ({"call": "a", "units": [{"tokens": 1}]}, "work_s"),
        ({"t_s": 1.0}, "neither an event"),
        ({"event": "sealed"}, "neither an event"),
    ],
)
def test_a_line_that_is_neither_is_named(tmp_path, line, said):
    with pytest.raises(BadInput, match=said) as found:
        replayed(tmp_path / "t.jsonl", [line])
    assert "t.jsonl:1" in str(found.value)


@pytest.mark.parametrize("text", ["", "a", "0", "-1", "inf", "1,,2"])
def test_rates_that_are_none_are_refused(text):
    with pytest.raises(UsageFault, match="--rate"):
        rates_of(text)


def test_a_policy_that_is_none_is_refused():
    assert policies_of("seal,partial") == ("seal", "partial")
    with pytest.raises(UsageFault, match="expected some of blocking, seal, partial"):
        policies_of("seal,eager")
