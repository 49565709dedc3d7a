"""The suite's own ground: fresh memory is poisoned, and Triton interprets where there is no GPU."""

import os
import subprocess
import sys

import pytest
import torch

CONFTEST_IMPORTS = """
import runpy, sys
runpy.run_path("tests/conftest.py")
print(sorted({"numpy", "torch", "triton"} & set(sys.modules)))
"""


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_fresh_memory_holds_nan(dtype):
    fresh = torch.empty(3, 5, dtype=dtype)
    like = torch.empty_like(torch.zeros(2, dtype=dtype))

    assert fresh.isnan().all()
    assert like.isnan().all()


def test_fresh_memory_of_integers_and_parameters_can_still_be_had():
    assert torch.empty(4, dtype=torch.int64).shape == (4,)
    assert torch.empty(4, requires_grad=True).requires_grad


def test_large_arenas_stay_uncommitted():
    arena = torch.empty(1 << 34, dtype=torch.uint8).view(torch.float32)  # 16 GiB of address space, no page touched
    floats = torch.empty((1 << 24) + 1)

    assert arena.numel() == 1 << 32
    assert not floats.isnan().all()


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU compiles its kernels")
def test_kernels_are_interpreted_where_there_is_no_gpu():
    assert os.environ["TRITON_INTERPRET"] == "1"


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU, torch is asked whether it works")
def test_conftest_loads_nothing_that_reads_the_environment_too_early(pytestconfig):
    ended = subprocess.run(
        [sys.executable, "-c", CONFTEST_IMPORTS], capture_output=True, text=True, check=True, cwd=pytestconfig.rootpath
    )

    assert ended.stdout == "[]\n"
