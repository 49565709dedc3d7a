"""How much memory the host and a device have, and how much of it is free for this process.

Knows control groups: in a container the limit counts, not the machine. Allocates nothing.
"""

from dataclasses import dataclass

import torch

from llmsys.gpu.cgroup import CgroupLimits, read_limits

__all__ = ["Memory", "device_memory", "host_memory", "is_out_of_memory"]

_ALLOCATION_FAILURES = ("can't allocate memory", "not enough memory", "out of memory")


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes in total, bytes that can still be allocated, and what sets the total: `machine`, `cgroup` or `device`."""

    total_bytes: int
    free_bytes: int
    bound: str


def host_memory(limits: CgroupLimits | None = None) -> Memory:
    """Memory of this machine, cut to what the control groups leave; without `limits` they are read for this process."""
    import psutil  # type: ignore[import-untyped]

    machine = psutil.virtual_memory()
    groups = read_limits() if limits is None else limits
    bound = "machine" if groups.memory_bytes is None or groups.memory_bytes >= machine.total else "cgroup"
    total = machine.total if groups.memory_bytes is None else min(machine.total, groups.memory_bytes)
    free = machine.available if groups.memory_free_bytes is None else min(machine.available, groups.memory_free_bytes)
    return Memory(total_bytes=total, free_bytes=min(free, total), bound=bound)


def device_memory(device: torch.device) -> Memory:
    """Memory of the device; that of the host for the CPU. On a GPU, what torch caches unused counts as free."""
    if device.type != "cuda":
        return host_memory()
    free, total = torch.cuda.mem_get_info(device)
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return Memory(total_bytes=total, free_bytes=free + cached, bound="device")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, of the host or of a device; torch says so in words on a CPU."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _ALLOCATION_FAILURES)
