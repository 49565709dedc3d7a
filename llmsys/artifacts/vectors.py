"""Vectors and queries from every format they come in: `.npy`, TEXMEX, safetensors and JSON Lines.

Binary files are memory-mapped and carry numbers alone; JSON Lines `{"id"?,"vector"|"x","tenant"?|"tenants"?}` also say
whose a vector is. Knows no metric and no index.
"""

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import orjson
from numpy.typing import NDArray

from llmsys.artifacts.compressed import source_name, write_compressed
from llmsys.artifacts.jsonl import read_records
from llmsys.artifacts.npy import read_npy, write_npy
from llmsys.artifacts.tensors import open_tensors, write_tensors
from llmsys.artifacts.trace import Name
from llmsys.artifacts.vecs import VECS_DTYPES, read_vecs, write_vecs
from llmsys.errors import BadInput

__all__ = ["Query", "VectorRecord", "VectorSet", "read_queries", "read_vectors", "write_vectors"]

TENSOR_NAME = "vectors"
LINE_SUFFIXES = (".jsonl", ".ndjson")
FORMATS = ".npy, .fvecs, .bvecs, .ivecs, .safetensors, .jsonl (or .jsonl.gz, .jsonl.zst), or - for JSON Lines on stdin"
CHECK_ROWS = 2**16

Id = int | str
Values = Annotated[list[float], msgspec.Meta(min_length=1)]
Fault = tuple[str, str]


class VectorRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line: its numbers as `vector` or as `x`, and the one `tenant` or all `tenants` that may see it."""

    id: Id | None = None
    vector: Values | None = None
    x: Values | None = None
    tenant: Name | None = None
    tenants: tuple[Name, ...] = ()

    @property
    def numbers(self) -> list[float] | None:
        """`vector` or `x`; None where the line has neither or both."""
        return self.vector if self.x is None else self.x if self.vector is None else None

    @property
    def all_tenants(self) -> tuple[str, ...]:
        """`tenants`, and `tenant` before them where it is said."""
        return self.tenants if self.tenant is None else (self.tenant, *self.tenants)


@dataclass(frozen=True, slots=True, eq=False)
class VectorSet:
    """Vectors [n, d]; without `ids` a row's number is its id; `tenants` holds those of each row, None if unsaid."""

    values: NDArray[Any]
    ids: tuple[Id, ...] | None = None
    tenants: tuple[tuple[str, ...], ...] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Query:
    """One query vector [d], float32; `number` counts from 0, `id` is its number where the input names none."""

    number: int
    id: Id
    vector: NDArray[np.float32]
    tenant: str | None = None


def read_vectors(
    source: str | Path,
    *,
    on_error: str = "fail",
    on_skip: Callable[[BadInput], None] | None = None,
    check_finite: bool = True,
) -> VectorSet:
    """Every vector of a file, by its suffix; `FILE.safetensors:NAME` picks a tensor where there are several.

    Binary formats keep their number type and stay on disk, but `check_finite` reads them once; JSON Lines become
    float32 in memory. Raises BadInput for another format, for rows of different dimensions, ids twice or on some lines
    only, NaN and infinities. Only JSON Lines can skip (see `read_records`).
    """
    if not _is_lines(source):
        values = _mapped(source)
        if check_finite:
            _refuse_nonfinite(source, values)
        return VectorSet(values)
    check = _LineCheck(None)
    flat = array("f")
    ids: list[Id] = []
    tenants: list[tuple[str, ...]] = []
    for record in read_records(source, VectorRecord, on_error=on_error, on_skip=on_skip, check=check):
        flat.extend(record.numbers or ())
        tenants.append(record.all_tenants)
        if record.id is not None:
            ids.append(record.id)
    values = np.frombuffer(flat, np.float32).reshape(len(tenants), check.dim or 0)
    return VectorSet(values, tuple(ids) if ids else None, tuple(tenants) if any(tenants) else None)


def read_queries(
    source: str | Path,
    *,
    dim: int | None = None,
    on_error: str = "fail",
    on_skip: Callable[[BadInput], None] | None = None,
) -> Iterator[Query]:
    """Yield the queries of a file as they come: a line is answered before the next one is read.

    `dim` is what they must have; without it the first query says. Ids may come twice. Raises as `read_vectors` does.
    """
    if _is_lines(source):
        check = _LineCheck(dim, unique=False)
        records = read_records(source, VectorRecord, on_error=on_error, on_skip=on_skip, check=check)
        for number, record in enumerate(records):
            vector = np.asarray(record.numbers, np.float32)
            yield Query(number, number if record.id is None else record.id, vector, record.tenant)
        return
    values = _mapped(source)
    if dim is not None and values.shape[1] != dim and len(values):
        raise BadInput(str(source), f"vectors of {values.shape[1]} numbers", f"{dim}")
    for number, row in enumerate(values):
        with np.errstate(over="ignore"):
            vector = np.asarray(row, np.float32)
        _refuse_nonfinite(source, vector[None], first_row=number)
        yield Query(number, number, vector)


def write_vectors(
    path: Path,
    values: NDArray[Any],
    *,
    ids: Sequence[Id] | None = None,
    tenants: Sequence[Sequence[str]] | None = None,
) -> None:
    """Write vectors [n, d] by rename, in the format of the suffix; float32 numbers read back exactly.

    Raises ValueError for another suffix, another shape, a number type that the format lacks, and for ids or tenants
    anywhere but in JSON Lines.
    """
    if values.ndim != 2:
        raise ValueError(f"shape {values.shape}; expected [n, d]")
    for name, column in (("ids", ids), ("tenants", tenants)):
        if column is not None and len(column) != len(values):
            raise ValueError(f"{len(column)} {name} for {len(values)} vectors")
    if _is_lines(path):
        _write_lines(path, values, ids, tenants)
    elif ids is not None or tenants is not None:
        raise ValueError(f"{path.suffix} holds no ids and no tenants; write .jsonl")
    elif path.suffix == ".npy":
        write_npy(path, values)
    elif path.suffix in VECS_DTYPES:
        write_vecs(path, values)
    elif path.suffix == ".safetensors":
        write_tensors(path, {TENSOR_NAME: values})
    else:
        raise ValueError(f"{path}: suffix {path.suffix!r}; expected {FORMATS}")


@dataclass(slots=True)
class _LineCheck:
    """Judges each line by the ones before it: one dimension, finite in float32, ids on all lines or on none."""

    dim: int | None
    unique: bool = True
    has_ids: bool | None = None
    seen: set[Id] | None = None

    def __call__(self, record: VectorRecord) -> Fault | None:
        numbers = record.numbers
        if numbers is None:
            return "both or neither of `$.vector` and `$.x`", "one of them"
        if self.dim is not None and len(numbers) != self.dim:
            return f"a vector of {len(numbers)} numbers", f"{self.dim}"
        with np.errstate(over="ignore"):
            if not np.isfinite(np.asarray(numbers, np.float32)).all():
                return "a number beyond float32", "numbers below 3.4e38"
        fault = self._id_fault(record.id) if self.unique else None
        if fault is None:
            self.dim = len(numbers)
        return fault

    def _id_fault(self, given: Id | None) -> Fault | None:
        self.seen = set() if self.seen is None else self.seen
        if self.has_ids is not None and self.has_ids != (given is not None):
            return f"{'no' if given is None else 'an'} id", "ids on every line or on none"
        if given in self.seen:
            return f"id {given!r} a second time", "an id of its own on every line"
        self.has_ids = given is not None
        if given is not None:
            self.seen.add(given)
        return None


def _is_lines(source: str | Path) -> bool:
    name = str(source)
    return name == "-" or name.removesuffix(".gz").removesuffix(".zst").endswith(LINE_SUFFIXES)


def _mapped(source: str | Path) -> NDArray[Any]:
    """The vectors [n, d] of a binary file."""
    path, name = _tensor_address(str(source))
    match path.suffix:
        case ".npy":
            values = read_npy(path)
        case ".fvecs" | ".bvecs" | ".ivecs":
            values = read_vecs(path)
        case ".safetensors":
            values = _only_tensor(path) if name is None else open_tensors(path).array(name)
        case _:
            raise BadInput(str(source), f"suffix {path.suffix!r} of no vector format", FORMATS)
    if values.ndim != 2 or values.dtype.kind not in "iuf":
        raise BadInput(str(source), f"shape {values.shape} of {values.dtype}", "numbers of shape [n, d]")
    return values


def _tensor_address(source: str) -> tuple[Path, str | None]:
    """A file, and the tensor after its last colon.

    >>> _tensor_address("pool.safetensors:train")
    (PosixPath('pool.safetensors'), 'train')
    """
    head, colon, name = source.rpartition(":")
    return (Path(head), name) if colon and head.endswith(".safetensors") else (Path(source), None)


def _only_tensor(path: Path) -> NDArray[Any]:
    opened = open_tensors(path)
    if TENSOR_NAME in opened.tensors:
        return opened.array(TENSOR_NAME)
    if len(opened.tensors) != 1:
        known = ", ".join(sorted(opened.tensors)[:20]) or "none"
        raise BadInput(str(path), f"{len(opened.tensors)} tensors ({known})", f"{path}:NAME to pick one")
    return opened.array(next(iter(opened.tensors)))


def _refuse_nonfinite(source: str | Path, values: NDArray[Any], *, first_row: int = 0) -> None:
    if values.dtype.kind != "f":
        return
    for start in range(0, len(values), CHECK_ROWS):
        finite = np.isfinite(values[start : start + CHECK_ROWS]).all(axis=1)
        if not finite.all():
            row = first_row + start + int(np.argmin(finite))
            raise BadInput(f"{source_name(source)}: row {row}", "NaN or infinity", "finite numbers")


def _write_lines(
    path: Path, values: NDArray[Any], ids: Sequence[Id] | None, tenants: Sequence[Sequence[str]] | None
) -> None:
    if not np.isfinite(values).all():
        raise ValueError("NaN or infinity has no form in JSON; expected finite numbers")
    with write_compressed(path) as stream:
        for row, vector in enumerate(values):
            line: dict[str, object] = {} if ids is None else {"id": ids[row]}
            line["vector"] = np.ascontiguousarray(vector)
            if tenants is not None:
                line["tenants"] = list(tenants[row])
            stream.write(orjson.dumps(line, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE))
