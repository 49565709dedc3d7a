"""Everything `llmsys doctor` tells, as one record: device, formats, threads, memory, engines, packages, ceilings.

Gathers what the other modules of this package find and decides nothing.
"""

from dataclasses import dataclass

import torch

from llmsys.gpu.ceilings import Ceilings, measure_ceilings
from llmsys.gpu.device import choose_device, cuda_names, describe
from llmsys.gpu.dtypes import choose_dtype, dtype_name
from llmsys.gpu.memory import Memory, device_memory, host_memory
from llmsys.gpu.packages import PackageState, embedded_model, package_states
from llmsys.gpu.threads import set_threads
from llmsys.gpu.triton_mode import has_triton, interpreting
from llmsys.gpu.video import Verdict, probe_engines

__all__ = ["Machine", "examine"]


@dataclass(frozen=True, slots=True)
class Machine:
    """What this machine offers. device is the one chosen; gpus are all there are; kernels says how Triton runs here."""

    device: str
    dtype: str
    threads: int
    torch_version: str
    gpus: tuple[str, ...]
    kernels: str
    host_memory: Memory
    device_memory: Memory
    video_engines: tuple[Verdict, ...]
    packages: tuple[PackageState, ...]
    embedded_model: str | None
    ceilings: Ceilings | None


def examine(device: str = "auto", *, dtype: str = "auto", threads: int = 0, ceilings: bool = False) -> Machine:
    """Look at this machine, with the options that every command takes; `ceilings` measures for up to 2 seconds.

    Sets torch's thread count. Raises UsageFault and Unavailable as `choose_device` and `choose_dtype` do.
    """
    chosen = choose_device(device)
    count = set_threads(threads)
    model = embedded_model()
    # before the video trials, whose processes would lower the ceilings
    measured = measure_ceilings(chosen) if ceilings else None
    return Machine(
        device=describe(chosen),
        dtype=dtype_name(choose_dtype(dtype, chosen)),
        threads=count,
        torch_version=torch.__version__,
        gpus=tuple(cuda_names()),
        kernels=_kernels(chosen),
        host_memory=host_memory(),
        device_memory=device_memory(chosen),
        video_engines=tuple(probe_engines()),
        packages=tuple(package_states()),
        embedded_model=None if model is None else str(model),
        ceilings=measured,
    )


def _kernels(device: torch.device) -> str:
    if not has_triton():
        return "torch twins alone: triton is not installed"
    if device.type == "cuda":
        return "interpreted" if interpreting() else "compiled by Triton"
    return "interpreted on the CPU" if interpreting() else "torch twins; TRITON_INTERPRET=1 interprets the kernels"
