"""CPU threads: affinity and quota bound them, torch is told."""

import os
import subprocess
import sys

import pytest
import torch

from llmsys.errors import UsageFault
from llmsys.gpu import CgroupLimits, set_threads, usable_cpus

PINNED = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); import llmsys.gpu; "


@pytest.fixture(autouse=True)
def same_threads_after():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_affinity_bounds_the_threads():
    ended = subprocess.run(
        [sys.executable, "-c", PINNED + "print(llmsys.gpu.usable_cpus(), llmsys.gpu.set_threads(0))"],
        capture_output=True,
        text=True,
        check=True,
    )

    assert ended.stdout == "1 1\n"


@pytest.mark.parametrize(("quota", "expected"), [(None, 10**6), (0.1, 1), (1.0, 1), (1.5, 2), (1e9, 10**6)])
def test_a_quota_bounds_the_threads_and_is_rounded_up(quota, expected):
    here = len(os.sched_getaffinity(0))

    assert usable_cpus(CgroupLimits(cpus=quota)) == min(expected, here)


def test_zero_takes_all_that_may_be_used(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    assert set_threads(0) == usable_cpus()
    assert torch.get_num_threads() == usable_cpus()


@pytest.mark.parametrize(("said", "expected"), [("1", 1), ("0", None), ("many", None), ("999999", None)])
def test_zero_takes_no_more_than_the_environment_allows(monkeypatch, said, expected):
    monkeypatch.setenv("OMP_NUM_THREADS", said)

    assert set_threads(0) == (expected or usable_cpus())


def test_a_number_is_taken_as_given_even_past_the_cpus():
    assert set_threads(3) == 3
    assert torch.get_num_threads() == 3


def test_a_negative_number_is_a_usage_fault():
    with pytest.raises(UsageFault, match="threads -1 is negative"):
        set_threads(-1)
