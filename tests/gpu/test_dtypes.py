"""Number formats: chosen from names, by what the device multiplies natively."""

import pytest
import torch

from llmsys.errors import UsageFault
from llmsys.gpu import DTYPES, choose_dtype, dtype_name, has_fast_bfloat16

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.mark.parametrize("name", sorted(DTYPES))
def test_a_named_dtype_is_taken_as_given_and_has_that_name(name):
    assert dtype_name(choose_dtype(name, CPU)) == name


@pytest.mark.parametrize("name", ["", "bf16", "float64", "int8", "Float32"])
def test_another_name_is_a_usage_fault(name):
    with pytest.raises(UsageFault, match="expected auto, float32, bfloat16, float16"):
        choose_dtype(name, CPU)


@pytest.mark.parametrize(
    ("capability", "expected"),
    [((7, 5), torch.float16), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16), ((10, 0), torch.bfloat16)],
)
def test_auto_on_a_gpu_follows_its_compute_capability(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)

    assert choose_dtype("auto", GPU) == expected


@pytest.mark.parametrize(
    ("abilities", "expected"),
    [
        ({"avx2": True, "avx512_bf16": False}, torch.float32),
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
        ({}, torch.float32),
    ],
)
def test_auto_on_a_cpu_follows_its_instructions(monkeypatch, abilities, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: abilities)

    assert choose_dtype("auto", CPU) == expected
    assert has_fast_bfloat16(CPU) == (expected == torch.bfloat16)
