"""Vectors from tables of columns: Parquet, and Arrow's files and streams.

A table has a column of vectors, `vector` or `embedding`, which are lists of numbers of one length; its columns `id` and
`tenants` are taken where it has them. Writes nothing.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmsys.artifacts import VectorSet
from llmsys.errors import BadInput
from llmsys.gpu import require

__all__ = ["TABLES", "columns_of", "open_table", "read_table"]

TABLES = (".parquet", ".arrow", ".feather", ".arrows")
VECTORS = ("vector", "embedding")


def read_table(path: Path) -> VectorSet:
    """The vectors of a Parquet or Arrow file. Raises BadInput for another content, Unavailable without pyarrow."""
    return columns_of(open_table(path), str(path))


def open_table(path: Path) -> Any:  # noqa: ANN401
    """The table of a file by its suffix."""
    require("pyarrow")
    if not path.exists():
        raise FileNotFoundError(2, "No such file or directory", str(path))
    try:
        if path.suffix == ".parquet":
            return require("pyarrow.parquet").read_table(path)
        opened = require("pyarrow.ipc").open_stream if path.suffix == ".arrows" else require("pyarrow.ipc").open_file
        with require("pyarrow").memory_map(str(path)) as source:
            return opened(source).read_all()
    except (OSError, ValueError) as error:
        raise BadInput(str(path), str(error).splitlines()[0], "a Parquet or Arrow file") from error


def columns_of(table: Any, where: str) -> VectorSet:  # noqa: ANN401
    """Ids, vectors and tenants of a table. Raises BadInput at `where` for columns that are not what they should be."""
    names = table.column_names
    column = next((name for name in VECTORS if name in names), None)
    if column is None:
        raise BadInput(where, f"columns {', '.join(names) or 'none'}", "at least vector (or embedding)")
    ids = tuple(_plain(table, "id", where)) if "id" in names else None
    tenants = None
    if "tenants" in names:
        granted = [() if one is None else one for one in _plain(table, "tenants", where, nulls=True)]
        if any(isinstance(one, str) or not all(isinstance(name, str) for name in one) for one in granted):
            raise BadInput(where, "column tenants holds no lists of text", "a list of names in each row")
        tenants = tuple(tuple(one) for one in granted)
    return VectorSet(_matrix(table.column(column).combine_chunks(), where, column), ids, tenants)


def _plain(table: Any, name: str, where: str, *, nulls: bool = False) -> list[Any]:  # noqa: ANN401
    column = table.column(name)
    if column.null_count and not nulls:
        raise BadInput(where, f"column {name} has {column.null_count} empty values", "one in each row")
    found: list[Any] = column.to_pylist()
    return found


def _matrix(column: Any, where: str, name: str) -> NDArray[Any]:  # noqa: ANN401
    """The vectors [n, d] of a column of lists."""
    kinds = require("pyarrow").types
    if not (kinds.is_list(column.type) or kinds.is_large_list(column.type) or kinds.is_fixed_size_list(column.type)):
        raise BadInput(where, f"column {name} of {column.type}", "lists of numbers")
    flat = column.flatten()
    lengths = {len(column[0])} if len(column) else {1}
    if not kinds.is_fixed_size_list(column.type):
        lengths = set(np.unique(np.diff(column.offsets.to_numpy())).tolist()) or {1}
    if column.null_count or flat.null_count or len(lengths) != 1 or lengths == {0}:
        raise BadInput(where, f"column {name} holds vectors of several lengths, or none", "one length")
    values: NDArray[Any] = flat.to_numpy(zero_copy_only=False).reshape(len(column), lengths.pop())
    if values.dtype.kind not in "iuf":
        raise BadInput(where, f"column {name} of {column.type}", "lists of numbers")
    return values
