"""Memory facts: consistent, and cut to what control groups leave."""

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmsys.gpu import CgroupLimits, device_memory, host_memory, is_out_of_memory

TOTAL = psutil.virtual_memory().total


def test_without_a_limit_the_machine_is_the_bound():
    found = host_memory(CgroupLimits())

    assert (found.total_bytes, found.bound) == (TOTAL, "machine")
    assert 0 < found.free_bytes <= TOTAL


def test_a_control_group_bounds_total_and_free():
    found = host_memory(CgroupLimits(memory_bytes=1 << 20, memory_free_bytes=1000))

    assert (found.total_bytes, found.free_bytes, found.bound) == (1 << 20, 1000, "cgroup")


def test_a_limit_above_the_machine_is_none():
    found = host_memory(CgroupLimits(memory_bytes=TOTAL * 2, memory_free_bytes=TOTAL * 2))

    assert (found.total_bytes, found.bound) == (TOTAL, "machine")


@given(limit=st.integers(0, 2 * TOTAL), share=st.floats(0, 1))
def test_free_never_exceeds_total(limit, share):
    found = host_memory(CgroupLimits(memory_bytes=limit, memory_free_bytes=int(limit * share)))

    assert 0 <= found.free_bytes <= found.total_bytes <= TOTAL


def test_the_cpu_as_a_device_has_the_host_memory(monkeypatch):
    assert device_memory(torch.device("cpu")).total_bytes == host_memory().total_bytes


def test_what_torch_caches_on_a_gpu_counts_as_free(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (100, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _device: 50)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _device: 20)

    found = device_memory(torch.device("cuda", 0))

    assert (found.total_bytes, found.free_bytes, found.bound) == (1000, 130, "device")


def test_an_allocation_that_no_machine_has_is_out_of_memory():
    with pytest.raises(RuntimeError) as caught:
        torch.ones(1 << 60)

    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("shapes do not match"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_other_errors_are_not_taken_for_a_lack_of_memory(error, expected):
    assert is_out_of_memory(error) is expected
