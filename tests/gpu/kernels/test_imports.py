"""Kernel modules stand on torch, numpy and triton alone, so that they run on a bare GPU machine."""

import subprocess
import sys

import pytest

BARE = """
import sys
for name in ("psutil", "av", "cupy", "pynvml", "orjson", "msgspec", "typer", "rich", "transformers", "numba", "faiss"):
    sys.modules[name] = None  # an import of it raises ImportError
import llmsys.gpu.kernels.{name}
print("imported")
"""


@pytest.mark.parametrize("name", ["paged_attention", "run_scan", "segmented_lora"])
def test_a_kernel_module_imports_on_a_bare_machine(name):
    ended = subprocess.run([sys.executable, "-c", BARE.format(name=name)], capture_output=True, text=True, check=False)

    assert (ended.stdout, ended.stderr) == ("imported\n", "")
