"""An index as a table of the columns id, vector and tenants: a Parquet file, or the table `vectors` of a LanceDB.

The metric stands in the table's schema. Knows neither the index's files nor searching.
"""

from pathlib import Path
from typing import Any

import numpy as np

from llmsys.artifacts import replace_file
from llmsys.errors import BadInput
from llmsys.gpu import require
from llmsys.vindex.content import Content
from llmsys.vindex.metric import METRICS
from llmsys.vindex.tables import columns_of, open_table

__all__ = ["PARQUET", "read_lance", "read_parquet", "write_lance", "write_parquet"]

PARQUET = ".parquet"
TABLE = "vectors"


def write_parquet(content: Content, dest: Path) -> None:
    """A Parquet file: `dest` itself where it ends in .parquet, else `vectors.parquet` in it."""
    parquet = require("pyarrow.parquet")
    with replace_file(_parquet_file(dest)) as stream:
        parquet.write_table(_table(content), stream, compression="zstd")


def read_parquet(source: Path) -> Content:
    """What `write_parquet` wrote, or any Parquet file of such columns. Raises BadInput."""
    path = _parquet_file(source)
    return _content(open_table(path), str(path))


def write_lance(content: Content, dest: Path) -> None:
    """The table `vectors` of the LanceDB in a directory, in place of one of that name. Raises Unavailable."""
    require("lancedb").connect(dest).create_table(TABLE, _table(content), mode="overwrite")


def read_lance(source: Path) -> Content:
    """The table `vectors` of the LanceDB in a directory. Raises BadInput where it cannot be read."""
    place = source / f"{TABLE}.lance"
    if not place.is_dir():
        raise FileNotFoundError(2, "No such file or directory", str(place))
    try:
        table = require("lancedb").connect(source).open_table(TABLE).to_arrow()
    except (OSError, ValueError, RuntimeError) as error:
        raise BadInput(str(source), str(error).splitlines()[0], f"a LanceDB with the table {TABLE!r}") from error
    return _content(table, str(source))


def _table(content: Content) -> Any:  # noqa: ANN401
    arrow = require("pyarrow")
    flat = arrow.array(content.vectors.ravel(), arrow.float32())
    columns = {
        "id": arrow.array(content.ids),
        "vector": arrow.FixedSizeListArray.from_arrays(flat, content.vectors.shape[1]),
        "tenants": arrow.array(content.tenants, arrow.list_(arrow.string())),
    }
    return arrow.table(columns).replace_schema_metadata({"metric": content.metric or ""})


def _content(table: Any, where: str) -> Content:  # noqa: ANN401
    read = columns_of(table, where)
    if read.ids is None:
        raise BadInput(where, "no column id", "at least id and vector")
    metric = (table.schema.metadata or {}).get(b"metric", b"").decode("utf-8", "replace")
    tenants = [list(one) for one in read.tenants] if read.tenants is not None else [[] for _ in read.ids]
    vectors = np.asarray(read.values, np.float32)
    return Content(vectors, list(read.ids), tenants, metric if metric in METRICS else None)


def _parquet_file(place: Path) -> Path:
    return place if place.suffix == PARQUET else place / "vectors.parquet"
