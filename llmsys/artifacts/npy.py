"""NumPy's `.npy`: arrays of numbers, memory-mapped from files or read from a stream that holds several.

Knows nothing of pickles: an array of objects is refused, as are records, text and big-endian numbers. What a header
claims is checked against the file before anything is allocated. Format: `numpy.lib.format`, versions 1.0 and 2.0.
"""

import ast
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from llmsys.artifacts.atomic import replace_file
from llmsys.errors import BadInput

__all__ = ["NpyRun", "read_npy", "read_npy_runs", "read_npy_stream", "write_npy"]

MAGIC = b"\x93NUMPY"
MAX_HEADER_BYTES = 8192
READ_BYTES = 2**20
_LENGTH_BYTES = {(1, 0): 2, (2, 0): 4}


@dataclass(frozen=True, slots=True)
class _Header:
    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype[Any]
    data_start: int

    @property
    def data_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def view(self, data: bytearray) -> NDArray[Any]:
        flat = np.frombuffer(data, self.dtype)
        return flat.reshape(self.shape, order="F" if self.fortran_order else "C")


def read_npy(path: str | Path) -> NDArray[Any]:
    """The array of a file, memory-mapped and read-only (bool, integers or floats, any shape).

    Raises BadInput for anything but one complete array, OSError for a file that cannot be read.
    """
    with Path(path).open("rb") as stream:
        header = _read_header(stream, str(path))
        actual = stream.seek(0, io.SEEK_END) - header.data_start
    if actual != header.data_bytes:
        wrong = f"{actual} bytes of data for shape {header.shape} of {header.dtype}"
        raise BadInput(f"{path}: offset {header.data_start}", wrong, f"{header.data_bytes} bytes")
    order: Any = "F" if header.fortran_order else "C"
    if not actual:
        return np.zeros(header.shape, header.dtype, order=order)
    return np.memmap(path, header.dtype, "r", offset=header.data_start, shape=header.shape, order=order)


def read_npy_stream(stream: BinaryIO, name: str) -> Iterator[NDArray[Any]]:
    """Yield one array after another until the stream ends; `name` is what errors call it.

    Memory grows with the bytes that come, not with what a header claims. Raises BadInput as `read_npy` does.
    """
    offset = 0
    while first := stream.read(1):
        header = _read_header(_After(first, stream), f"{name}: array at offset {offset}")
        yield header.view(_read_data(stream, header.data_bytes, f"{name}: array at offset {offset}"))
        offset += header.data_start + header.data_bytes


@dataclass(frozen=True, slots=True)
class NpyRun:
    """Rows first_row … of an array of shape `whole` (all of an array without rows), as an array [rows, …]."""

    whole: tuple[int, ...]
    first_row: int
    rows: NDArray[Any]


def read_npy_runs(stream: BinaryIO, name: str, *, run_bytes: int) -> Iterator[NpyRun]:
    """Yield the arrays of a stream in runs of whole rows, each of at most `run_bytes` (one row may be more).

    An array in Fortran order comes as one run. Memory grows with a run. Raises BadInput as `read_npy` does.
    """
    offset = 0
    while first := stream.read(1):
        where = f"{name}: array at offset {offset}"
        header = _read_header(_After(first, stream), where)
        row_bytes = max(1, math.prod(header.shape[1:]) * header.dtype.itemsize)
        whole_rows = header.shape[0] if header.shape else 1
        step = whole_rows if header.fortran_order or not header.shape else max(1, run_bytes // row_bytes)
        for row in range(0, whole_rows, max(1, step)) if header.data_bytes else [0]:
            shape = (min(step, whole_rows - row), *header.shape[1:]) if header.shape else ()
            run = replace(header, shape=shape)
            yield NpyRun(header.shape, row, run.view(_read_data(stream, run.data_bytes, where)))
        offset += header.data_start + header.data_bytes


def _read_data(stream: BinaryIO, size: int, where: str) -> bytearray:
    data = bytearray()
    while len(data) < size:
        piece = stream.read(min(READ_BYTES, size - len(data)))
        if not piece:
            raise BadInput(where, f"the stream ends after {len(data)} bytes of data", f"{size} bytes")
        data += piece
    return data


def write_npy(path: Path, array: NDArray[Any]) -> None:
    """Write an array of numbers by rename. Raises ValueError for objects, records, text and big-endian numbers."""
    if fault := _dtype_fault(array.dtype):
        raise ValueError(f"{fault}; expected native bool, integers or floats")
    with replace_file(path) as stream:
        np.lib.format.write_array(stream, array, allow_pickle=False)


@dataclass(slots=True)
class _After:
    """A stream with one byte put back."""

    first: bytes
    stream: BinaryIO

    def read(self, size: int) -> bytes:
        first, self.first = self.first, b""
        return first + self.stream.read(size - len(first))


def _read_header(stream: BinaryIO | _After, where: str) -> _Header:
    start = stream.read(8)
    if start[:6] != MAGIC:
        raise BadInput(where, f"starts with {start[:6]!r}", f"a .npy file, which starts with {MAGIC!r}")
    version = (start[6], start[7]) if len(start) == 8 else (0, 0)
    if version not in _LENGTH_BYTES:
        raise BadInput(where, f".npy version {version[0]}.{version[1]}", "version 1.0 or 2.0")
    packed_length = stream.read(_LENGTH_BYTES[version])
    length = int.from_bytes(packed_length, "little")
    if length > MAX_HEADER_BYTES:
        raise BadInput(where, f"a header of {length} bytes", f"at most {MAX_HEADER_BYTES}")
    text = stream.read(length)
    if len(text) != length or len(packed_length) != _LENGTH_BYTES[version]:
        raise BadInput(where, "the header is cut", f"{length} bytes")
    shape, fortran_order, dtype = _parsed(text, where)
    if fault := _dtype_fault(dtype):
        raise BadInput(where, fault, "little-endian bool, integers or floats")
    return _Header(shape, fortran_order, dtype, len(start) + len(packed_length) + length)


def _parsed(text: bytes, where: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """The three entries of a header. numpy's own parser is not asked: hostile text makes it raise what it likes."""
    try:
        header = ast.literal_eval(text.decode("latin1"))
        shape, fortran_order, descr = header["shape"], header["fortran_order"], header["descr"]
        dtype = np.dtype(descr)
    except (ValueError, TypeError, SyntaxError, KeyError, RecursionError, MemoryError) as error:
        raise BadInput(where, "no .npy header", "what numpy.save writes") from error
    if not isinstance(fortran_order, bool):
        raise BadInput(where, f"fortran_order {fortran_order!r}", "True or False")
    if not isinstance(shape, tuple) or any(type(size) is not int or size < 0 for size in shape):
        raise BadInput(where, f"shape {shape!r}", "a tuple of sizes >= 0")
    return shape, fortran_order, dtype


def _dtype_fault(dtype: np.dtype[Any]) -> str | None:
    """Why numbers of this type are not read or written, None if they are."""
    if dtype.hasobject:
        return "an array of Python objects (a pickle)"
    if dtype.kind not in "biuf" or dtype.itemsize > 8 or not dtype.isnative:
        return f"dtype {dtype.str!r}"
    return None
