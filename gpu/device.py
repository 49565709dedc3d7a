"""Which device computes: chosen from a name, and described so that every report can say where it ran.

Knows neither dtypes nor memory. A GPU that was asked for by name is never replaced by the CPU in silence.
"""

import platform
from pathlib import Path

import torch

from llmsys.errors import Unavailable, UsageFault

__all__ = ["choose_device", "cuda_names", "describe"]

CPUINFO = Path("/proc/cpuinfo")


def cuda_names() -> list[str]:
    """Names of the CUDA (or ROCm) devices that torch can use, in order of their index; empty where there is none."""
    if not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def choose_device(name: str = "auto") -> torch.device:
    """Turn `auto`, `cpu`, `cuda` or `cuda:N` into a device; `auto` is the first GPU, else the CPU.

    Raises UsageFault for any other name, and Unavailable (exit 69) for a named GPU that is not there, saying what is.
    """
    index = _cuda_index(name)
    if name == "cpu":
        return torch.device("cpu")
    present = cuda_names()
    if name == "auto" and not present:
        return torch.device("cpu")
    if index < len(present):
        return torch.device("cuda", index)
    there = ", ".join(f"cuda:{i} {gpu}" for i, gpu in enumerate(present)) or f"no GPU, only {describe()}"
    remedy = "use --device auto or cpu" if present else f"use --device cpu{_build_remedy()}"
    raise Unavailable(f"device {name} is not there; this machine has {there}", remedy)


def _cuda_index(name: str) -> int:
    """The GPU's number in `name`, 0 where it names none. Raises UsageFault for a name that is no device's."""
    if name in ("auto", "cpu", "cuda"):
        return 0
    kind, _, number = name.partition(":")
    if kind != "cuda" or not (number.isascii() and number.isdigit()):
        raise UsageFault(f"device {name!r} is not known; expected auto, cpu, cuda or cuda:N")
    return int(number)


def _build_remedy() -> str:
    for_gpus = torch.version.cuda is not None or torch.version.hip is not None
    return "" if for_gpus else ", or install a GPU build of torch (this one is for CPUs alone)"


def describe(device: torch.device | None = None) -> str:
    """Say in one line which device this is: name, compute capability or instruction set, memory or threads.

    Without an argument, the CPU.
    """
    if device is None or device.type == "cpu":
        return f"cpu {_cpu_name()}, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
    facts = torch.cuda.get_device_properties(device)
    return f"{device} {facts.name}, compute {facts.major}.{facts.minor}, {facts.total_memory / 2**30:.1f} GiB"


def _cpu_name(cpuinfo: Path = CPUINFO) -> str:
    """The processor's name as Linux gives it, else the architecture."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
