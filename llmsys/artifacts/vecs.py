"""The `.fvecs`, `.bvecs` and `.ivecs` of TEXMEX: every row is its dimension (int32) and its numbers, little-endian.

Rows are memory-mapped where they lie. Knows nothing of ids or tenants, which the format has no room for.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmsys.artifacts.atomic import replace_file
from llmsys.errors import BadInput

__all__ = ["VECS_DTYPES", "read_vecs", "write_vecs"]

VECS_DTYPES: dict[str, np.dtype[Any]] = {".fvecs": np.dtype("<f4"), ".bvecs": np.dtype("u1"), ".ivecs": np.dtype("<i4")}
MAX_DIM = 2**20
DIM_BYTES = 4
WRITE_BYTES = 2**24


def read_vecs(path: str | Path) -> NDArray[Any]:
    """The rows [n, d] of a file, memory-mapped and read-only, with the number type that the suffix says.

    An empty file is [0, 0]. Raises BadInput with the offset where a row's dimension differs or the file is cut.
    """
    path = Path(path)
    size = path.stat().st_size
    dtype = VECS_DTYPES[path.suffix]
    if not size:
        return np.zeros((0, 0), dtype)
    dim = _first_dim(path)
    row_bytes = DIM_BYTES + dim * dtype.itemsize
    complete = size // row_bytes
    rows: NDArray[Any] = np.memmap(path, np.uint8, "r", shape=(complete, row_bytes))
    dims = np.ascontiguousarray(rows[:, :DIM_BYTES]).view("<i4")[:, 0]
    if (different := np.flatnonzero(dims != dim)).size:
        row = int(different[0])
        raise BadInput(f"{path}: offset {row * row_bytes}", f"row {row} has dimension {dims[row]}", f"{dim} as row 0")
    if size % row_bytes:
        wrong = f"{size % row_bytes} bytes of an incomplete row"
        raise BadInput(f"{path}: offset {complete * row_bytes}", wrong, f"rows of {row_bytes} bytes")
    return rows[:, DIM_BYTES:].view(dtype)


def write_vecs(path: Path, values: NDArray[Any]) -> None:
    """Write rows [n, d] by rename. Raises ValueError where the suffix asks for another number type, or d is 0."""
    dtype = VECS_DTYPES[path.suffix]
    if values.dtype != dtype:
        raise ValueError(f"{path.suffix} holds {dtype}, not {values.dtype}")
    if values.ndim != 2 or not 1 <= values.shape[1] <= MAX_DIM:
        raise ValueError(f"shape {values.shape}; expected [n, d] with 1 <= d <= {MAX_DIM}")
    dim = values.shape[1]
    row_bytes = DIM_BYTES + dim * dtype.itemsize
    step = max(1, WRITE_BYTES // row_bytes)
    with replace_file(path) as stream:
        for start in range(0, len(values), step):
            part = np.ascontiguousarray(values[start : start + step])
            rows = np.empty((len(part), row_bytes), np.uint8)
            rows[:, :DIM_BYTES] = np.frombuffer(dim.to_bytes(DIM_BYTES, "little"), np.uint8)
            rows[:, DIM_BYTES:] = part.view(np.uint8).reshape(len(part), -1)
            stream.write(rows.data)


def _first_dim(path: Path) -> int:
    with path.open("rb") as stream:
        head = stream.read(DIM_BYTES)
    dim = int.from_bytes(head, "little", signed=True)
    if len(head) < DIM_BYTES or not 1 <= dim <= MAX_DIM:
        raise BadInput(f"{path}: offset 0", f"a first dimension of {dim}", f"an int32 from 1 to {MAX_DIM}")
    return dim
