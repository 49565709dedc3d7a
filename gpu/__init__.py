"""The shared runtime: device, dtypes, threads, memory, timing, ceilings, Triton's mode, video engines, packages.

Kernels are in `llmsys.gpu.kernels`, one module each. Nothing here knows a model or a system.
"""

from llmsys.gpu.ceilings import Ceilings, measure_ceilings
from llmsys.gpu.cgroup import CgroupLimits, read_limits
from llmsys.gpu.device import choose_device, cuda_names, describe
from llmsys.gpu.dtypes import DTYPES, choose_dtype, dtype_name, has_fast_bfloat16
from llmsys.gpu.machine import Machine, examine
from llmsys.gpu.memory import Memory, device_memory, host_memory, is_out_of_memory
from llmsys.gpu.packages import (
    EMBEDDED,
    OPTIONAL,
    OptionalPackage,
    PackageState,
    embedded_model,
    find_model,
    package_states,
    require,
)
from llmsys.gpu.threads import set_threads, usable_cpus
from llmsys.gpu.timing import Measurement, Timer, measure
from llmsys.gpu.triton_mode import has_triton, interpreting, next_power_of_2, runs_kernels, use_interpreter
from llmsys.gpu.video import ENGINES, Engine, Verdict, probe_engine, probe_engines

__all__ = [
    "DTYPES",
    "EMBEDDED",
    "ENGINES",
    "OPTIONAL",
    "Ceilings",
    "CgroupLimits",
    "Engine",
    "Machine",
    "Measurement",
    "Memory",
    "OptionalPackage",
    "PackageState",
    "Timer",
    "Verdict",
    "choose_device",
    "choose_dtype",
    "cuda_names",
    "describe",
    "device_memory",
    "dtype_name",
    "embedded_model",
    "examine",
    "find_model",
    "has_fast_bfloat16",
    "has_triton",
    "host_memory",
    "interpreting",
    "is_out_of_memory",
    "measure",
    "measure_ceilings",
    "next_power_of_2",
    "package_states",
    "probe_engine",
    "probe_engines",
    "read_limits",
    "require",
    "runs_kernels",
    "set_threads",
    "usable_cpus",
    "use_interpreter",
]
