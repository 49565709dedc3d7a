"""The points that could be labelled: a table of numbers on disk, its ids, and a checksum that recognises it.

Binary files are memory-mapped and read in blocks; JSON Lines and `.npz` lie in memory. Knows no basis and no label.
"""

import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from llmsys.artifacts import read_npy_stream, read_vectors
from llmsys.errors import BadInput

__all__ = ["Pool", "open_pool", "pool_of", "read_column"]

CHECKSUM_ROWS = 64
ZIP_FAULTS = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError),
    *(KeyError, ValueError, RuntimeError, NotImplementedError),
)

Id = int | str


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """Points `values` [n, m]; a point's id is its row number unless `ids` names it."""

    name: str
    values: NDArray[Any]
    ids: tuple[Id, ...] | None = None

    def __len__(self) -> int:
        return len(self.values)

    @property
    def inputs(self) -> int:
        """Numbers per point."""
        return int(self.values.shape[1])

    def id_of(self, index: int) -> str:
        """The id of a row, as text."""
        return str(index if self.ids is None else self.ids[index])

    def checksum(self) -> str:
        """16 hexadecimal digits of the shape and of 64 rows spread over the pool."""
        rows = np.unique(np.linspace(0, len(self) - 1, CHECKSUM_ROWS).astype(np.int64))
        digest = blake2b(repr(self.values.shape).encode(), digest_size=8)
        digest.update(np.ascontiguousarray(self.values[rows], np.float64).tobytes())
        return digest.hexdigest()


def pool_of(values: NDArray[Any], name: str = "pool") -> Pool:
    """A pool of an array [n, m] of numbers. Raises BadInput for another shape and for one without points."""
    if values.ndim != 2 or values.dtype.kind not in "biuf" or 0 in values.shape:
        raise BadInput(name, f"shape {values.shape} of {values.dtype}", "numbers of shape [n, m], neither of them 0")
    return Pool(name, values)


def open_pool(
    source: str, *, ids: Path | None = None, on_error: str = "fail", on_skip: Callable[[BadInput], None] | None = None
) -> Pool:
    """Open `.npy`, `.npz:KEY`, `.safetensors[:KEY]`, `.fvecs` or JSON Lines `{"id"?,"x"|"vector"}` (`-` is stdin).

    `ids` names a text file with one id a line. Only JSON Lines can skip a bad record. Raises BadInput for another
    format, an empty pool and a number of ids that does not fit. NaN and infinities are found when a block is read.
    """
    if ".npz" in source:
        pool = pool_of(_npz_entry(source), source)
    else:
        found = read_vectors(source, on_error=on_error, on_skip=on_skip, check_finite=False)
        pool = Pool(source, pool_of(found.values, source).values, found.ids)
    return pool if ids is None else Pool(source, pool.values, _read_ids(ids, len(pool)))


def read_column(path: Path, n: int, *, positive: bool = False, signed: bool = False) -> NDArray[np.float64]:
    """One number per point [n] from `.npy` or a text file with one number a line.

    They must be finite and, unless `signed`, at least 0, or above 0 with `positive`. Raises BadInput.
    """
    if path.suffix == ".npy":
        with path.open("rb") as stream:
            column = np.asarray(next(read_npy_stream(stream, str(path)), np.zeros(0)), np.float64)
    else:
        column = np.asarray([_number(path, i, line) for i, line in enumerate(path.read_text().split(), 1)])
    if column.shape != (n,):
        raise BadInput(str(path), f"numbers of shape {column.shape}", f"{n}, one per point")
    low = np.zeros(n, np.bool_) if signed else column <= 0 if positive else column < 0
    bad = ~np.isfinite(column) | low
    if bad.any():
        row = int(np.argmax(bad))
        right = "a finite number" + ("" if signed else " above 0" if positive else " of at least 0")
        raise BadInput(f"{path}: row {row}", f"{column[row]}", right)
    return column


def _number(path: Path, line: int, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise BadInput(f"{path}:{line}", f"{text!r}", "a number") from error


def _read_ids(path: Path, n: int) -> tuple[str, ...]:
    ids = tuple(path.read_text(encoding="utf-8").splitlines())
    if len(ids) != n:
        raise BadInput(str(path), f"{len(ids)} ids", f"{n}, one line per point")
    if len(set(ids)) != n:
        raise BadInput(str(path), "an id a second time", "an id of its own on every line")
    return ids


def _npz_entry(source: str) -> NDArray[Any]:
    """The array KEY of FILE.npz:KEY; the only one where no key is given."""
    head, ending, key = source.rpartition(".npz")
    path = Path(head + ending)
    with path.open("rb") as stream:
        try:
            return _archived(stream, path, key.removeprefix(":"), source)
        except ZIP_FAULTS as error:
            raise BadInput(str(path), f"no .npz archive ({error})", "what numpy.savez writes") from error


def _archived(stream: BinaryIO, path: Path, key: str, source: str) -> NDArray[Any]:
    with zipfile.ZipFile(stream) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
        chosen = key or (names[0] if len(names) == 1 else "")
        if chosen not in names:
            known = ", ".join(sorted(names)[:20]) or "none"
            raise BadInput(str(path), f"no array {chosen!r}", f"{path}:KEY with one of {known}")
        with archive.open(f"{chosen}.npy") as entry:
            for array in read_npy_stream(cast(BinaryIO, entry), source):
                return array
    raise BadInput(source, "an empty entry", "an array")
