"""Timers and measurements: what is counted, and when a figure is doubted. No test depends on how fast anything is."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmsys.gpu import Timer, measure
from llmsys.gpu.timing import _doubts, _sum_up


def _timed(seconds: float) -> Timer:
    timer = Timer()
    timer.wall_s = timer.cpu_s = timer.device_s = seconds
    return timer


def test_a_timer_on_the_cpu_counts_wall_and_cpu_time():
    with Timer() as timer:
        math.factorial(20_000)

    assert timer.device_s == timer.wall_s > 0
    assert timer.cpu_s > 0


def test_a_timer_counts_a_block_that_raises():
    timer = Timer()
    with pytest.raises(KeyError), timer:
        raise KeyError

    assert timer.wall_s > 0


def test_work_runs_warm_up_and_measured_times():
    calls = []

    found = measure(lambda: calls.append(1), runs=7, warmup=3)

    assert len(calls) == 10
    assert found.runs == 7
    assert 0 < found.min_s <= found.median_s
    assert found.spread >= 0
    assert found.busy is None or 0 <= found.busy <= 1


@pytest.mark.parametrize(("runs", "warmup"), [(0, 0), (-1, 0), (1, -1)])
def test_no_run_and_a_negative_warm_up_are_refused(runs, warmup):
    with pytest.raises(ValueError, match="expected runs >= 1 and warmup >= 0"):
        measure(lambda: None, runs=runs, warmup=warmup)


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=20))
def test_the_sum_is_least_median_and_spread(times):
    found = _sum_up([_timed(seconds) for seconds in times], busy=None)
    ordered = sorted(times)
    middle = (ordered[(len(times) - 1) // 2] + ordered[len(times) // 2]) / 2

    assert found.min_s == ordered[0]
    assert found.median_s == pytest.approx(middle)
    assert found.spread == pytest.approx((ordered[-1] - ordered[0]) / middle)


@pytest.mark.parametrize(
    ("median_s", "spread", "busy", "words"),
    [
        (1.0, 0.01, 0.0, []),
        (1.0, 0.01, None, []),
        (1e-6, 0.01, 0.0, ["near the clock's own cost"]),
        (1.0, 0.5, 0.0, ["the runs differ by 50%"]),
        (1.0, 0.01, 0.4, ["other processes used 40% of the CPUs"]),
        (1e-6, 0.5, 0.4, ["clock", "differ", "other processes"]),
    ],
)
def test_a_doubtful_figure_says_why_and_what_to_do(median_s, spread, busy, words):
    doubts = _doubts(median_s, spread, busy)

    assert len(doubts) == len(words)
    assert all(word in doubt and ": " in doubt for word, doubt in zip(words, doubts, strict=True))


@pytest.mark.gpu
def test_a_timer_on_a_gpu_waits_for_the_device(device):
    matrix = torch.ones(4096, 4096, device=device)
    with Timer(device) as timer:
        for _ in range(20):
            matrix @ matrix

    assert 0 < timer.device_s <= timer.wall_s * 1.5
