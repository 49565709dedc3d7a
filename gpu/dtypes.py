"""Number formats of weights and activations: chosen from a name, per device.

Knows three formats that every kernel here takes. Quantised formats belong to the codecs and the engine.
"""

import torch

from llmsys.errors import UsageFault

__all__ = ["DTYPES", "choose_dtype", "dtype_name", "has_fast_bfloat16"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
AMPERE = (8, 0)


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """Turn `auto`, `float32`, `bfloat16` or `float16` into a dtype.

    `auto` is bfloat16 where the device multiplies it natively; else float16 on a GPU and float32 on a CPU.
    Raises UsageFault for any other name.
    """
    if name in DTYPES:
        return DTYPES[name]
    if name != "auto":
        raise UsageFault(f"dtype {name!r} is not known; expected auto, {', '.join(DTYPES)}")
    if has_fast_bfloat16(device):
        return torch.bfloat16
    return torch.float16 if device.type == "cuda" else torch.float32


def dtype_name(dtype: torch.dtype) -> str:
    """The name that --dtype takes and reports print.

    >>> dtype_name(torch.bfloat16)
    'bfloat16'
    """
    return str(dtype).removeprefix("torch.")


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether the device has bfloat16 multipliers: NVIDIA's from Ampere on; AVX512_BF16, AMX or Arm's BF16."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= AMPERE
    abilities = torch.cpu.get_capabilities()
    return any(abilities.get(flag, False) for flag in ("avx512_bf16", "amx_bf16", "bf16"))
