"""Who may see what, as a sparse matrix in an `.npz` of SciPy's: row i is the i-th vector, a column is a tenant.

Tenants are named by an array `tenants` in the same file, or by `<file>.tenants.txt` beside it, one per line; else a
column's number is its name. Numbers in the matrix say nothing but yes, and an explicit 0 is a no. Knows no vectors.
"""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmsys.errors import BadInput
from llmsys.vindex.arrays import I64

__all__ = ["MATRIX", "read_matrix"]

MATRIX = ".npz"
RIGHT = "scipy.sparse.save_npz of a CSR matrix [vectors, tenants]"
PARTS = ("format", "indices", "indptr", "data", "shape")


def read_matrix(path: Path, count: int) -> list[list[str]]:
    """The tenants of each of `count` vectors. Raises BadInput for what is no CSR matrix of so many rows."""
    parts = _parts(path)
    rows, columns = _shape(path, parts)
    if rows != count:
        raise BadInput(str(path), f"{rows} rows for {count} vectors", "one for each")
    names = _names(path, parts, columns)
    ends, held, kept = parts["indptr"], parts["indices"], parts["data"] != 0
    chosen: I64 = held.astype(np.int64)
    spans = zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)
    return [[names[column] for column in chosen[a:b][kept[a:b]].tolist()] for a, b in spans]


def _parts(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of the file; never one of Python objects."""
    try:
        with np.load(path, allow_pickle=False) as opened:
            parts = {name: opened[name] for name in opened.files}
    except FileNotFoundError:
        raise
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise BadInput(str(path), str(error).splitlines()[0], RIGHT) from error
    missing = [name for name in PARTS if name not in parts]
    if missing:
        raise BadInput(str(path), f"no array {missing[0]!r}", RIGHT)
    if bytes(parts["format"].item() if parts["format"].dtype.kind == "S" else b"") != b"csr":
        raise BadInput(str(path), f"format {parts['format'].item()!r}", RIGHT)
    return parts


def _shape(path: Path, parts: dict[str, NDArray[Any]]) -> tuple[int, int]:
    """Rows and columns, after a look at every index."""
    shape, ends, held = parts["shape"], parts["indptr"], parts["indices"]
    flat = all(one.ndim == 1 and one.dtype.kind in "iu" for one in (shape, ends, held)) and parts["data"].ndim == 1
    if not flat or len(shape) != 2 or len(ends) != int(shape[0]) + 1 or len(parts["data"]) != len(held):
        raise BadInput(str(path), "arrays whose sizes contradict each other", RIGHT)
    rows, columns = int(shape[0]), int(shape[1])
    grows = bool((np.diff(ends.astype(np.int64)) >= 0).all()) and ends[0] == 0 and ends[-1] == len(held)
    if not grows or (len(held) and not (held.min() >= 0 and held.max() < columns)):
        raise BadInput(str(path), "an index outside the matrix", RIGHT)
    return rows, columns


def _names(path: Path, parts: dict[str, NDArray[Any]], columns: int) -> list[str]:
    beside = path.with_name(f"{path.name}.tenants.txt")
    if "tenants" in parts:
        names = [str(one) for one in parts["tenants"].ravel().tolist()]
    elif beside.exists():
        names = beside.read_text(encoding="utf-8").splitlines()
    else:
        names = [str(column) for column in range(columns)]
    if len(names) != columns or len(set(names)) != columns:
        raise BadInput(str(path), f"{len(set(names))} names for {columns} tenants", "a name of its own for each")
    return names
