"""How Triton runs: the switch works before the import and refuses to lie after it."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmsys.gpu import has_triton, interpreting, next_power_of_2, runs_kernels

BEFORE = """
from llmsys.gpu import interpreting, runs_kernels, use_interpreter
import torch
print(interpreting(), runs_kernels(torch.zeros(1)))
use_interpreter()
import triton
print(interpreting(), runs_kernels(torch.zeros(1)), type(triton.jit(lambda x: None)).__name__)
"""
AFTER = """
import triton
from llmsys.gpu import use_interpreter
try:
    use_interpreter()
except RuntimeError as error:
    print(error)
"""


def _run(program: str) -> str:
    import os

    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    return ended.stdout


@pytest.mark.skipif(not has_triton(), reason="triton is not installed")
def test_the_interpreter_is_used_when_asked_for_before_triton_loads():
    assert _run(BEFORE) == "False False\nTrue True InterpretedFunction\n"


@pytest.mark.skipif(not has_triton(), reason="triton is not installed")
def test_asking_after_triton_loaded_is_refused():
    assert "set TRITON_INTERPRET=1 before the first import" in _run(AFTER)


@pytest.mark.parametrize(
    ("value", "expected"), [("1", True), ("true", True), ("ON", True), ("0", False), ("", False), ("no", False)]
)
def test_the_switch_is_read_as_triton_reads_it(monkeypatch, value, expected):
    monkeypatch.setenv("TRITON_INTERPRET", value)

    assert interpreting() == expected
    assert runs_kernels(torch.zeros(1)) == (expected and has_triton())


@given(st.integers(0, 1 << 62))
def test_the_next_power_of_two_is_the_least_that_is_large_enough(number):
    power = next_power_of_2(number)

    assert power & (power - 1) == 0
    assert power >= number
    assert power == 1 or power // 2 < number
