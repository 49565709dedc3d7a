"""How Triton kernels run here: compiled for a GPU, under the interpreter on the CPU, or not at all.

Triton fixes the mode when it is first imported, so the interpreter is asked for before that: `use_interpreter()`, or
TRITON_INTERPRET=1 in the environment. Imports Triton only to ask whether it is there.
"""

import os
import sys
from importlib.util import find_spec

import torch

__all__ = ["has_triton", "interpreting", "next_power_of_2", "runs_kernels", "use_interpreter"]

SWITCH = "TRITON_INTERPRET"
TRUE_WORDS = ("1", "true", "yes", "on", "y")


def has_triton() -> bool:
    """Whether the triton package is installed. Nothing is imported."""
    return find_spec("triton") is not None


def interpreting() -> bool:
    """Whether kernels run under Triton's interpreter, which takes CPU tensors and is slow."""
    return os.environ.get(SWITCH, "").lower() in TRUE_WORDS


def use_interpreter() -> None:
    """Make every kernel of this process run under the interpreter. Raises RuntimeError once Triton is imported."""
    if "triton" in sys.modules and not interpreting():
        raise RuntimeError(f"triton is imported already; set {SWITCH}=1 before the first import of a kernel module")
    os.environ[SWITCH] = "1"


def runs_kernels(tensor: torch.Tensor) -> bool:
    """Whether a launcher runs its kernel on this tensor: on a GPU always, on the CPU only under the interpreter."""
    return tensor.is_cuda or (interpreting() and has_triton())


def next_power_of_2(number: int) -> int:
    """The least power of two that is at least `number`; 1 for zero.

    >>> [next_power_of_2(n) for n in (0, 1, 3, 16, 33)]
    [1, 1, 4, 16, 64]
    """
    return 1 << max(number - 1, 0).bit_length()
