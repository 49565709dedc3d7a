"""Availability traces: three formats, counts that become nodes, failures drawn, and traces made longer."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsys.errors import BadInput
from llmsys.moe_train.sim import Tick, cut_trace, draw_failures, extend_trace, follow_counts, read_availability

FIXTURES = Path(__file__).parents[2] / "fixtures" / "moe-train"
BAMBOO = FIXTURES / "bamboo-aws-p3.csv"
GCP = FIXTURES / "bamboo-gcp-a100.txt"


def present(ticks):
    """Who is there after every tick; nobody leaves who is not there, nobody comes twice."""
    alive, seen, found = set(), set(), []
    for tick in ticks:
        assert set(tick.left) <= alive | set(tick.joined)
        assert not seen & set(tick.joined)
        seen |= set(tick.joined)
        alive = (alive | set(tick.joined)) - set(tick.left)
        found.append((tick.t_s, frozenset(alive)))
    assert [t_s for t_s, _ in found] == sorted(t_s for t_s, _ in found)
    return found


def test_bamboos_trace_has_the_nodes_that_were_counted():
    ticks = read_availability(BAMBOO)
    counts = [len(alive) for _, alive in present(ticks)]

    assert sum(len(tick.joined) for tick in ticks) == 177
    assert sum(len(tick.left) for tick in ticks) == 167
    assert (max(counts), max(len(tick.left) for tick in ticks)) == (32, 6)
    assert ticks[-1].t_s == pytest.approx(40_920)


@pytest.mark.parametrize("victims", ["newest", "random"])
def test_counts_become_nodes_of_that_number(victims):
    ticks = read_availability(GCP, victims=victims, seed=3)
    counts = {t_s: len(alive) for t_s, alive in present(ticks)}

    assert (ticks[0].t_s, len(ticks[0].joined)) == (0.0, 55)
    assert (min(counts.values()), max(counts.values())) == (17, 64)
    assert counts[29_420.0] == 17  # 19:21:50, after 53 at 19:20:10


def test_the_newest_leave_first_where_only_counts_are_known():
    assert follow_counts([(0, 3), (1, 1), (2, 2)]) == [Tick(0, (0, 1, 2), ()), Tick(1, (), (1, 2)), Tick(2, (3,), ())]


@given(st.lists(st.integers(0, 6), min_size=1, max_size=20), st.sampled_from(["newest", "random"]))
def test_any_counts_are_followed(counts, victims):
    ticks = follow_counts([(float(step), count) for step, count in enumerate(counts)], victims=victims)
    seen = dict.fromkeys(range(len(counts)), 0)
    now = 0
    by_time = dict(present(ticks))
    for step in range(len(counts)):
        now = len(by_time[step]) if step in by_time else now
        seen[step] = now

    assert list(seen.values()) == counts


def test_json_counts_come_every_gap(tmp_path):
    path = tmp_path / "spot.json"
    path.write_text(json.dumps({"metadata": {"gap_seconds": 300}, "data": [2, 2, 0, 1]}))

    assert read_availability(path) == [Tick(0, (0, 1), ()), Tick(600, (), (0, 1)), Tick(900, (2,), ())]


def test_a_cut_trace_starts_with_who_was_there():
    ticks = [Tick(0, (0, 1), ()), Tick(10, (2,), (0,)), Tick(20, (3,), ()), Tick(40, (4,), ())]

    assert cut_trace(ticks, 10, 20) == [Tick(0, (1, 2), ()), Tick(10, (3,), ())]


def test_the_paper_segment_keeps_its_nodes():
    whole = dict(present(read_availability(BAMBOO)))
    cut = present(cut_trace(read_availability(BAMBOO), 3600, 4800))

    assert [alive for t_s, alive in cut if t_s > 0] == [whole[t_s + 3600] for t_s, _ in cut if t_s > 0]


@pytest.mark.parametrize("arrivals", ["fixed", "exponential"])
def test_failures_take_one_node_at_a_time_until_none_is_left(arrivals):
    ticks = draw_failures(5, 10.0, 1000.0, arrivals=arrivals, seed=1)
    counts = [len(alive) for _, alive in present(ticks)]

    assert counts == [5, 4, 3, 2, 1, 0]


def test_fixed_failures_come_on_time_and_are_replaced():
    ticks = draw_failures(3, 10.0, 35.0, arrivals="fixed", replace_after_s=4.0)

    assert [(tick.t_s, len(tick.joined), len(tick.left)) for tick in ticks] == [
        (0.0, 3, 0),
        *((t_s, joined, 1 - joined) for start in (10.0, 20.0, 30.0) for t_s, joined in ((start, 0), (start + 4, 1))),
    ]


def test_exponential_failures_have_the_mean_that_was_asked_for():
    """10 000 gaps; their mean within six standard errors (1e-9)."""
    ticks = draw_failures(4, 50.0, 500_000.0, replace_after_s=0.0, seed=2)
    times = np.array([tick.t_s for tick in ticks if tick.left])
    gaps = np.diff(times)

    assert abs(gaps.mean() - 50.0) < 6 * 50.0 / np.sqrt(len(gaps))
    assert gaps.std() == pytest.approx(50.0, rel=0.1)


def test_an_extended_trace_begins_as_it_did_and_keeps_bursts_and_gaps():
    ticks = read_availability(BAMBOO)
    longer = extend_trace(ticks, 30 * 86_400.0, seed=5)
    gaps = {round(after.t_s - before.t_s, 3) for before, after in pairwise(ticks)}
    bursts = {(len(tick.joined), len(tick.left)) for tick in ticks[1:]}
    drawn = {round(after.t_s - before.t_s, 3) for before, after in pairwise(longer)}
    counts = [len(alive) for _, alive in present(longer)]

    assert longer[0] == ticks[0]
    assert longer[-1].t_s <= 30 * 86_400.0 < longer[-1].t_s + 7200
    assert min(drawn) >= min(gaps)
    assert max(counts) <= 32
    assert {(come, go) for come, go in bursts if come + go > 8} <= {(len(t.joined), len(t.left)) for t in longer}


def test_the_same_seed_extends_a_trace_the_same_way():
    ticks = read_availability(BAMBOO)

    assert extend_trace(ticks, 200_000.0, seed=1) == extend_trace(ticks, 200_000.0, seed=1)
    assert extend_trace(ticks, 200_000.0, seed=1) != extend_trace(ticks, 200_000.0, seed=2)


def test_a_trace_without_a_gap_cannot_be_extended():
    with pytest.raises(ValueError, match="two or more"):
        extend_trace([Tick(0, (0,), ())], 10)
    with pytest.raises(ValueError, match="a trace that lasts"):
        extend_trace([Tick(0, (0,), ()), Tick(0, (1,), ())], 10)


@pytest.mark.parametrize(
    ("name", "text", "wrong"),
    [
        ("a.csv", "0,add,n1\n5,drop,n1\n", ":2: '5,drop,n1'"),
        ("a.csv", "0,add,n1\n5,remove,n2\n", ":2: remove n2"),
        ("a.csv", "0,add,n1\n5,add,n1\n", ":2: add n1"),
        ("a.csv", "9,add,n1\n5,add,n2\n", ":2: 5 ms after 9 ms"),
        ("a.csv", "-1,add,n1\n", ":1: "),
        ("a.csv", "0,add\n", ":1: 2 fields; expected 3"),
        ("a.csv", "", ": no line"),
        ("a.txt", "2021-12-11, 11:11:30, many\n", ":1: 2021-12-11"),
        ("a.txt", "2021-12-11, 11:11:30, 5\n2021-12-11, 11:11:29, 5\n", ":2: 11:11:29 before"),
        ("a.json", '{"data":[1]}', "metadata"),
        ("a.json", '{"metadata":{"gap_seconds":0},"data":[1]}', "gap_seconds"),
        ("a.json", '{"metadata":{"gap_seconds":1},"data":[-1]}', "data"),
        ("a.json", "\xff", "expected an object"),
    ],
)
def test_traces_that_are_none_are_named_by_line(tmp_path, name, text, wrong):
    path = tmp_path / name
    path.write_text(text, encoding="latin-1")

    with pytest.raises(BadInput) as caught:
        read_availability(path)
    assert str(caught.value).startswith(str(path))
    assert wrong in str(caught.value)
