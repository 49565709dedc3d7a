"""Number formats that tensors come in, as words of bits and as float32: numpy lacks bfloat16 and both float8.

A tensor travels as words (unsigned integers of its width), so that no bit is lost on the way to a lossless codec.
Knows no file format.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["FORMATS", "NumberFormat", "from_words", "number_format", "of_array", "to_words"]

F32 = NDArray[np.float32]
Words = NDArray[Any]


@dataclass(frozen=True, slots=True)
class NumberFormat:
    """One format: its short name, safetensors' name, bits of a value; of a float, its exponent and mantissa bits."""

    name: str
    stored: str
    bits: int
    exponent_bits: int = 0
    mantissa_bits: int = 0

    @property
    def is_float(self) -> bool:
        """Whether lossy codecs take it."""
        return self.exponent_bits > 0

    @property
    def word(self) -> np.dtype[Any]:
        """The unsigned integer that holds one value."""
        return np.dtype(f"<u{self.bits // 8}")


_ALL = (
    NumberFormat("bf16", "BF16", 16, 8, 7),
    NumberFormat("f16", "F16", 16, 5, 10),
    NumberFormat("f32", "F32", 32, 8, 23),
    NumberFormat("f64", "F64", 64, 11, 52),
    NumberFormat("f8_e4m3", "F8_E4M3", 8, 4, 3),
    NumberFormat("f8_e5m2", "F8_E5M2", 8, 5, 2),
    NumberFormat("bool", "BOOL", 8),
    NumberFormat("i8", "I8", 8),
    NumberFormat("i16", "I16", 16),
    NumberFormat("i32", "I32", 32),
    NumberFormat("i64", "I64", 64),
    NumberFormat("u8", "U8", 8),
    NumberFormat("u16", "U16", 16),
    NumberFormat("u32", "U32", 32),
    NumberFormat("u64", "U64", 64),
)
FORMATS = {one.name: one for one in _ALL}
STORED = {one.stored: one for one in _ALL}
_NUMPY = {"f2": "f16", "f4": "f32", "f8": "f64", "b1": "bool"} | {
    f"{kind}{size}": f"{kind}{8 * size}" for kind in "iu" for size in (1, 2, 4, 8)
}
_PLAIN = {"f16": np.float16, "f32": np.float32, "f64": np.float64}


def number_format(stored: str) -> NumberFormat | None:
    """The format by the name that safetensors gives it, None for one that this package does not know."""
    return STORED.get(stored)


def of_array(array: NDArray[Any]) -> tuple[NumberFormat, Words]:
    """The format of a numpy array and its words [n], little-endian, in C order.

    Raises ValueError for a dtype that is no number.
    """
    name = _NUMPY.get(array.dtype.kind + str(array.dtype.itemsize))
    if name is None:
        raise ValueError(f"an array of dtype {array.dtype}; expected one of {', '.join(sorted(_NUMPY.values()))}")
    plain = np.asarray(array, array.dtype.newbyteorder("<"), order="C").reshape(-1)
    return FORMATS[name], plain.view(FORMATS[name].word)


def from_words(words: Words, kind: NumberFormat) -> F32:
    """Words [n] of a float format as float32 [n]; float64 is rounded, every other format is exact."""
    if kind.name == "bf16":
        return (words.astype(np.uint32) << 16).view(np.float32)
    if kind.bits == 8:
        return _byte_values(kind.name)[words]
    with np.errstate(over="ignore"):
        return np.asarray(words.view(_PLAIN[kind.name]), np.float32)


def to_words(values: F32, kind: NumberFormat) -> Words:
    """float32 [n] rounded to the nearest value of a float format, ties to even, as words [n]."""
    if kind.name == "bf16":
        return _bfloat16_words(values)
    if kind.bits == 8:
        import torch

        foreign = torch.from_numpy(np.ascontiguousarray(values)).to(_torch_type(kind.name))
        return np.asarray(foreign.view(torch.uint8).numpy())
    with np.errstate(over="ignore"):
        return np.asarray(values, _PLAIN[kind.name]).view(kind.word)


def _bfloat16_words(values: F32) -> NDArray[np.uint16]:
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)
    quiet = ((bits >> 16) | 0x40).astype(np.uint16)
    return np.where(np.isnan(values), quiet, rounded)


def _torch_type(name: str) -> Any:  # noqa: ANN401
    import torch

    return {"f8_e4m3": torch.float8_e4m3fn, "f8_e5m2": torch.float8_e5m2}[name]


@cache
def _byte_values(name: str) -> F32:
    """The value of every byte of a float8 format."""
    import torch

    table = torch.arange(256, dtype=torch.uint8).view(_torch_type(name)).float()
    return np.asarray(table.numpy())
