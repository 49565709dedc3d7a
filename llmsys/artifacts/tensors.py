"""safetensors: named tensors and one document about them, mapped without trust and written reproducibly.

The library that maps and writes is safetensors; what is ours is a header check that answers before anything is
allocated, and metadata under one key, because the library writes several in random order. Knows no model's names.
"""

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from llmsys.artifacts.atomic import replace_path
from llmsys.artifacts.jsonl import decode_record, encode
from llmsys.errors import BadInput

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["DOCUMENT_KEY", "TensorFile", "TensorInfo", "open_tensors", "write_tensors"]

DOCUMENT_KEY = "llmsys"
MAX_HEADER_BYTES = 64 * 2**20
T = TypeVar("T")

_DTYPES = {
    "BOOL": "?",
    "U8": "u1",
    "I8": "i1",
    "U16": "<u2",
    "I16": "<i2",
    "U32": "<u4",
    "I32": "<i4",
    "U64": "<u8",
    "I64": "<i8",
    "F16": "<f2",
    "F32": "<f4",
    "F64": "<f8",
}
_NUMPY_DTYPES = frozenset(np.dtype(code) for code in _DTYPES.values())
# Types that numpy lacks: bits of one number.
_FOREIGN_BITS = {"BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "C64": 64}
_BITS = {name: np.dtype(code).itemsize * 8 for name, code in _DTYPES.items()} | _FOREIGN_BITS


class TensorInfo(msgspec.Struct, frozen=True):
    """What a header says of one tensor; offsets count from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


@dataclass(frozen=True)
class TensorFile:
    """An open safetensors file whose header fits its size: `tensors` by name in file order, `metadata` as written."""

    path: Path
    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]
    data_start: int

    def info(self, name: str) -> TensorInfo:
        """Type, shape and place of a tensor. Raises BadInput that lists the names there are."""
        if name not in self.tensors:
            known = ", ".join(sorted(self.tensors)[:20]) or "none"
            raise BadInput(str(self.path), f"no tensor {name!r}", f"one of {known}")
        return self.tensors[name]

    def array(self, name: str) -> NDArray[Any]:
        """A tensor as a read-only array, memory-mapped. Raises BadInput for a name or a type that numpy lacks."""
        info = self.info(name)
        if info.dtype not in _DTYPES:
            raise BadInput(str(self.path), f"tensor {name!r} of type {info.dtype}", f"one of {', '.join(_DTYPES)}")
        begin, end = info.data_offsets
        if begin == end:
            return np.zeros(info.shape, _DTYPES[info.dtype])
        dtype = np.dtype(_DTYPES[info.dtype])
        return np.memmap(self.path, dtype, "r", offset=self.data_start + begin, shape=info.shape)

    def tensor(self, name: str, *, device: str = "cpu") -> "Tensor":
        """A tensor of torch on a device. Raises BadInput for a name the file lacks."""
        self.info(name)
        loaded: Tensor = self._torch_file.get_tensor(name)
        return loaded.to(device)

    def document(self, kind: type[T]) -> T:
        """What `write_tensors` wrote as `document`. Raises BadInput where there is none, or one of another form."""
        where = f"{self.path}: metadata {DOCUMENT_KEY!r}"
        if DOCUMENT_KEY not in self.metadata:
            raise BadInput(where, "not there", "a file that llmsys wrote")
        return decode_record(self.metadata[DOCUMENT_KEY].encode(), msgspec.json.Decoder(kind), where)

    @cached_property
    def _torch_file(self) -> Any:  # noqa: ANN401
        from safetensors import safe_open

        return safe_open(self.path, framework="pt")


def open_tensors(path: str | Path) -> TensorFile:
    """Check the header of a file against its size, and read nothing else.

    Raises BadInput for a header that is cut, over MAX_HEADER_BYTES or no JSON, and for tensors that overlap, leave
    holes, or do not end where the file ends; OSError for a file that cannot be read.
    """
    path = Path(path)
    with path.open("rb") as stream:
        size = stream.seek(0, io.SEEK_END)
        stream.seek(0)
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > size - 8:
            raise BadInput(f"{path}: offset 0", f"a header of {length} bytes in a file of {size}", "a safetensors file")
        if length > MAX_HEADER_BYTES:
            raise BadInput(f"{path}: offset 0", f"a header of {length} bytes", f"at most {MAX_HEADER_BYTES}")
        header = stream.read(length)
    where = f"{path}: header"
    parts = decode_record(header, msgspec.json.Decoder(dict[str, msgspec.Raw]), where)
    metadata_part = bytes(parts.pop("__metadata__", msgspec.Raw(b"{}")))
    metadata = decode_record(metadata_part, msgspec.json.Decoder(dict[str, str]), f"{where}: __metadata__")
    decoder = msgspec.json.Decoder(TensorInfo)
    infos = {name: decode_record(bytes(part), decoder, f"{where}: {name}") for name, part in parts.items()}
    ordered = dict(sorted(infos.items(), key=lambda item: item[1].data_offsets))
    _check_layout(path, ordered, size - 8 - length)
    return TensorFile(path, ordered, metadata, 8 + length)


def write_tensors(
    path: Path, tensors: "Mapping[str, NDArray[Any]] | Mapping[str, Tensor]", *, document: object = None
) -> None:
    """Write tensors, all of numpy or all of torch, by rename; the same input gives the same bytes.

    `document` is kept as JSON under one key of the metadata (without one the key `format` is written, which
    transformers and peft ask for). Raises ValueError for a mixture, for tensors that share memory, and for types that
    the format lacks.
    """
    metadata = {"format": "pt"} if document is None else {DOCUMENT_KEY: encode(document).decode().strip()}
    arrays = {name: value for name, value in tensors.items() if isinstance(value, np.ndarray)}
    if arrays and len(arrays) != len(tensors):
        raise ValueError("a mixture of numpy and torch tensors; expected one kind")
    with replace_path(path) as temporary:
        if len(arrays) == len(tensors):
            _write_arrays(arrays, temporary, metadata)
        else:
            _write_torch(tensors, temporary, metadata)


def _write_arrays(arrays: dict[str, NDArray[Any]], path: Path, metadata: dict[str, str]) -> None:
    from safetensors.numpy import save_file

    for name, array in arrays.items():
        if array.dtype.newbyteorder("<") not in _NUMPY_DTYPES:
            raise ValueError(f"tensor {name!r} of dtype {array.dtype}; expected numbers of safetensors")
    # The library writes the buffer as it lies, whatever the strides and the byte order.
    plain = {name: np.asarray(a, a.dtype.newbyteorder("<"), order="C") for name, a in arrays.items()}
    save_file(plain, path, metadata=metadata)


def _write_torch(tensors: Mapping[str, Any], path: Path, metadata: dict[str, str]) -> None:
    from safetensors.torch import save_file

    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata=metadata)
    except RuntimeError as error:
        raise ValueError(str(error)) from error


def _check_layout(path: Path, tensors: Mapping[str, TensorInfo], data_bytes: int) -> None:
    """Every byte of the data belongs to exactly one tensor, and as many as its shape says."""
    expected = 0
    for name, info in tensors.items():
        where = f"{path}: header: {name}"
        begin, end = info.data_offsets
        if info.dtype not in _BITS:
            raise BadInput(where, f"type {info.dtype!r}", f"one of {', '.join(_BITS)}")
        if any(size < 0 for size in info.shape) or (end - begin) * 8 != math.prod(info.shape) * _BITS[info.dtype]:
            raise BadInput(where, f"{end - begin} bytes for shape {info.shape} of {info.dtype}", "as many as it holds")
        if begin != expected:
            raise BadInput(where, f"data from offset {begin}", f"{expected}, where the tensor before it ends")
        expected = end
    if expected != data_bytes:
        raise BadInput(str(path), f"{data_bytes} bytes of data", f"{expected}, as the header says")
