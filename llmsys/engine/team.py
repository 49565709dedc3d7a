"""Run a compiled loop on the OpenMP team that torch already keeps spinning.

A second thread pool beside torch's would share its CPUs with threads that wait actively, and every step would pay for
the other's waiting; so loops enter torch's own pool through libgomp. Where torch came with another OpenMP runtime they
run on one thread. Knows nothing of what the loops compute.
"""

import ctypes
import os
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import llvmlite.binding
import numba
import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from llmsys.gpu.compiled import compile_loop

__all__ = ["TeamLoop", "compiled", "pointer", "prefetch", "team_size", "thread_number"]

F = TypeVar("F", bound=Callable[..., object])

ASSUMPTIONS = {"reassoc", "contract", "arcp", "nsz"}
"""What the compiler may do with sums: take any order. NaN and infinity stay what they are."""


def compiled(function: F) -> F:
    """A loop without the GIL or bounds checks, compiled at its first call and kept on disk."""
    return compile_loop(function, fastmath=ASSUMPTIONS, error_model="numpy", boundscheck=False)


@cache
def _runtime() -> ctypes.CDLL | None:
    """The libgomp that torch has loaded; None where there is none, which must not be loaded beside another runtime."""
    try:
        found = ctypes.CDLL("libgomp.so.1", mode=os.RTLD_NOLOAD | os.RTLD_NOW)
    except (OSError, AttributeError):
        return None
    found.GOMP_parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    found.GOMP_parallel.restype = None
    return found


_first = numba.cfunc(types.int32())(lambda: 0)
_alone = numba.cfunc(types.int32())(lambda: 1)


def _bind(symbol: str, name: str, otherwise: int) -> types.ExternalFunction:
    """A function of the runtime under a symbol that compiled code on disk finds again in the next process."""
    runtime = _runtime()
    address = otherwise if runtime is None else ctypes.cast(getattr(runtime, name), ctypes.c_void_p).value
    llvmlite.binding.add_symbol(symbol, address)
    return types.ExternalFunction(symbol, types.int32())


thread_number = _bind("llmsys_thread_number", "omp_get_thread_num", _first.address)
"""In compiled code: which thread of the team runs this, from 0."""
team_size = _bind("llmsys_team_size", "omp_get_num_threads", _alone.address)
"""In compiled code: how many threads the team has."""


def _pointer(typing_context: Any, address: Any, element: Any) -> Any:  # noqa: ANN401
    signature = types.CPointer(element.dtype)(types.int64, element)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ANN401
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return signature, generate


pointer = intrinsic(_pointer)
"""In compiled code: an int64 address as a pointer to elements of a numpy type, float32 say."""


def _prefetch(typing_context: Any, address: Any) -> Any:  # noqa: ANN401
    number, byte = ir.IntType(32), ir.IntType(8).as_pointer()

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ANN401
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        hint = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
        builder.call(hint, [builder.inttoptr(arguments[0], byte), *(number(given) for given in (0, 2, 1))])
        return context.get_dummy_value()

    return types.void(types.int64), generate


prefetch = intrinsic(_prefetch)
"""In compiled code: bring the line at an int64 address nearer. An address that is not the process's does no harm."""


class TeamLoop:
    """A compiled function of one pointer to `record`, its arguments, called once by every thread of the team."""

    def __init__(self, function: Callable[[Any], None], record: np.dtype[np.void]) -> None:
        signature = types.void(types.CPointer(numba.from_dtype(record)))
        self._entry = numba.cfunc(signature, nopython=True, cache=True)(function)
        self.record = record

    def __call__(self, *arguments: int | float) -> None:
        """Run with the record's fields in their order; addresses are integers. Returns when all threads are done."""
        block = np.array([arguments], dtype=self.record)
        runtime = _runtime()
        if runtime is None:
            self._entry.ctypes(block.ctypes.data)
        else:
            runtime.GOMP_parallel(self._entry.address, block.ctypes.data, torch.get_num_threads(), 0)
