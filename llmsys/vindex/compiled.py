"""Compile a loop that may reorder sums, and say whether that costs a wait.

Compiled code stays on disk: a later process loads it. What numba lacks is written in LLVM's terms: a dot
product of bytes, which the machine has an instruction for, an array at an address, float16. Knows no loop.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from llmsys.gpu.compiled import compile_loop

__all__ = ["AHEAD", "ROW_BLOCK", "compiled", "dot_rows", "fetch_row", "half_value", "int32_at", "is_ready"]

F = TypeVar("F", bound=Callable[..., object])
FAST = {"reassoc", "contract", "nsz"}
ROW_BLOCK = LINE = 64
AHEAD = 12
_BYTE, _WORD, _ADDRESS = ir.IntType(8), ir.IntType(32), ir.IntType(64)


def compiled(function: F) -> F:
    """As `llmsys.gpu.compiled`'s, but it may reorder sums."""
    return compile_loop(function, fastmath=FAST)


def is_ready(function: Callable[..., object]) -> bool:
    """Whether a call starts at once: the function was compiled in this process, or its machine code is on disk."""
    stats = function.stats  # type: ignore[attr-defined]
    if function.signatures:  # type: ignore[attr-defined]
        return True
    name = function.__qualname__
    return any(Path(stats.cache_path).glob(f"*.{name}-*.nbc"))


@intrinsic  # type: ignore[untyped-decorator]
def dot_rows(context: Any, rows: Any, row: Any, code: Any) -> Any:  # noqa: ANN401
    """rows[row] . code for rows [n, s] uint8 and code [s] int8, s a multiple of ROW_BLOCK; the sum is int32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ANN401
        matrix = context.make_array(signature.args[0])(context, builder, arguments[0])
        vector = context.make_array(signature.args[2])(context, builder, arguments[2])
        stride = cgutils.unpack_tuple(builder, matrix.strides)[0]
        left = builder.gep(builder.bitcast(matrix.data, _BYTE.as_pointer()), [builder.mul(arguments[1], stride)])
        right = builder.bitcast(vector.data, _BYTE.as_pointer())
        total = cgutils.alloca_once_value(builder, ir.Constant(_WORD, 0))
        blocks = builder.udiv(cgutils.unpack_tuple(builder, vector.shape)[0], ir.Constant(_ADDRESS, ROW_BLOCK))
        with cgutils.for_range(builder, blocks) as loop:
            offset = builder.mul(loop.index, ir.Constant(_ADDRESS, ROW_BLOCK))
            part = _block_dot(builder, builder.gep(left, [offset]), builder.gep(right, [offset]))
            builder.store(builder.add(builder.load(total), part), total)
        return builder.load(total)

    return types.int32(rows, types.intp, code), generate


def _block_dot(builder: Any, left: Any, right: Any) -> Any:  # noqa: ANN401
    """The sum of products of ROW_BLOCK unsigned and signed bytes, in the form that LLVM knows as one instruction."""
    narrow, wide = ir.VectorType(_BYTE, ROW_BLOCK), ir.VectorType(_WORD, ROW_BLOCK)
    unsigned = builder.zext(builder.load(builder.bitcast(left, narrow.as_pointer()), align=1), wide)
    signed = builder.sext(builder.load(builder.bitcast(right, narrow.as_pointer()), align=1), wide)
    kind = ir.FunctionType(_WORD, [wide])
    add = cgutils.get_or_insert_function(builder.module, kind, f"llvm.vector.reduce.add.v{ROW_BLOCK}i32")
    return builder.call(add, [builder.mul(unsigned, signed)])


@intrinsic  # type: ignore[untyped-decorator]
def fetch_row(context: Any, rows: Any, row: Any) -> Any:  # noqa: ANN401
    """Ask the machine to bring rows[row] of a matrix into the cache; nothing waits for it."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ANN401
        matrix = context.make_array(signature.args[0])(context, builder, arguments[0])
        stride = cgutils.unpack_tuple(builder, matrix.strides)[0]
        start = builder.gep(builder.bitcast(matrix.data, _BYTE.as_pointer()), [builder.mul(arguments[1], stride)])
        kind = ir.FunctionType(ir.VoidType(), [_BYTE.as_pointer(), _WORD, _WORD, _WORD])
        prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        lines = builder.udiv(builder.add(stride, ir.Constant(_ADDRESS, LINE - 1)), ir.Constant(_ADDRESS, LINE))
        reading, keep, data = (ir.Constant(_WORD, number) for number in (0, 3, 1))
        with cgutils.for_range(builder, lines) as loop:
            place = builder.gep(start, [builder.mul(loop.index, ir.Constant(_ADDRESS, LINE))])
            builder.call(prefetch, [place, reading, keep, data])
        return context.get_dummy_value()

    return types.none(rows, types.intp), generate


@intrinsic  # type: ignore[untyped-decorator]
def _as_float(context: Any, bits: Any) -> Any:  # noqa: ANN401
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ANN401
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


@compiled
def half_value(bits: int) -> float:
    """The number that the 16 bits of a finite float16 stand for."""
    size: float = _as_float(np.int32((bits & 0x7FFF) << 13)) * np.float32(2.0**112)
    return -size if bits & 0x8000 else size


@intrinsic  # type: ignore[untyped-decorator]
def _as_pointer(context: Any, address: Any) -> Any:  # noqa: ANN401
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ANN401
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(address), generate


@compiled
def int32_at(address: int, count: int) -> NDArray[np.int32]:
    """The `count` int32 numbers at an address, which must stay alive while they are read."""
    found: NDArray[np.int32] = numba.carray(_as_pointer(address), (count,), np.int32)
    return found
