"""Vectors, ids and access lists from files, as `build` and `add` take them. Changes no index."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from llmsys.artifacts import decode_record, read_lines, read_npy, read_records, read_vectors
from llmsys.errors import BadInput
from llmsys.vindex.access_matrix import MATRIX, read_matrix
from llmsys.vindex.index import Index
from llmsys.vindex.intake import Access
from llmsys.vindex.slot_store import Id
from llmsys.vindex.tables import TABLES, read_table

__all__ = ["Collection", "listed_ids", "read_access", "read_collection", "read_names", "required_ids", "typed_ids"]


class AccessRecord(msgspec.Struct, frozen=True):
    """Who may see a vector."""

    id: Id
    tenants: list[str]


class Answer(msgspec.Struct, frozen=True):
    """What is read of an answer of `search`."""

    ids: list[Id]


_ANSWERS = msgspec.json.Decoder(Answer)


@dataclass(frozen=True, slots=True, eq=False)
class Collection:
    """Vectors [n, d], their ids (None: row numbers), and who may see them (None: nobody, or as before)."""

    vectors: NDArray[Any]
    ids: list[Id] | None
    access: Access | None


def read_collection(vectors: str, ids: Path | None, access: Path | None) -> Collection:
    """Vectors of any format that `read_vectors` takes, or a table; tables and JSON Lines may bring ids and tenants.

    `ids` is an `.npy` of integers or one JSON value or word per line; `access` is JSON Lines `{"id","tenants"}` or a
    sparse matrix (see `access_matrix`). Raises BadInput where they contradict each other.
    """
    read = read_table(Path(vectors)) if vectors.endswith(TABLES) else read_vectors(vectors)
    named: list[Id] | None = list(read.ids) if read.ids is not None else None
    if ids is not None:
        if named is not None:
            raise BadInput(str(ids), "ids for vectors that bring their own", "one of them")
        named = _read_ids(ids)
    granted: Access | None = read.tenants
    if access is not None:
        if granted is not None:
            raise BadInput(str(access), "tenants for vectors that bring their own", "one of them")
        matrix = access.suffix == MATRIX
        granted = read_matrix(access, len(read.values)) if matrix else read_access(access)
    return Collection(read.values, named, granted)


def required_ids(read: Collection, where: str) -> list[Id]:
    """The ids that came with vectors. Raises BadInput where none did: a row number would name another vector."""
    if read.ids is None:
        raise BadInput(where, "vectors without ids", "`id` in every line, or --ids")
    return read.ids


def typed_ids(words: list[str], index: Index) -> list[Id]:
    """Ids from the command line, or from stdin for `-` alone; see `listed_ids`."""
    return listed_ids("-", index) if words == ["-"] else list(_parsed(words, index))


def listed_ids(source: str, index: Index) -> list[Id]:
    """One id per line, integers where the index has integers, or answers of `search`.

    Raises BadInput for a word that is none.
    """
    found: list[Id] = []
    for name in read_names(source):
        if name.startswith("{"):
            found += decode_record(name.encode(), _ANSWERS, source).ids
        else:
            found += _parsed([name], index)
    return found


def _parsed(words: Iterable[str], index: Index) -> Iterator[Id]:
    for word in words:
        if index.state.store.id_type is str:
            yield word
            continue
        try:
            yield int(word)
        except ValueError as error:
            raise BadInput(f"id {word!r}", "not a number", "ids of this index, which are integers") from error


def read_names(source: str) -> list[str]:
    """One name per line, or a JSON list of them; blank lines are passed over."""
    lines = [line.strip() for _, line in read_lines(source) if line.strip()]
    if len(lines) == 1 and lines[0].startswith(b"["):
        try:
            return msgspec.json.decode(lines[0], type=list[str])
        except msgspec.DecodeError as error:
            raise BadInput(source, str(error), "a JSON list of names") from error
    return [_text(source, number, line) for number, line in enumerate(lines, 1)]


def _text(source: str, number: int, line: bytes) -> str:
    try:
        return msgspec.json.decode(line, type=str) if line.startswith(b'"') else line.decode()
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{source}:{number}", str(error), "a name in UTF-8") from error


def _read_ids(path: Path) -> list[Id]:
    if path.suffix == ".npy":
        array = read_npy(path)
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise BadInput(str(path), f"shape {array.shape} of {array.dtype}", "integers of shape [n]")
        return [int(one) for one in array.astype(np.int64 if array.dtype.kind == "i" else object)]
    names = read_names(str(path))
    return [int(one) for one in names] if all(_is_integer(one) for one in names) else list(names)


def _is_integer(text: str) -> bool:
    return text.removeprefix("-").isdecimal()


def read_access(path: Path) -> dict[Id, list[str]]:
    """The tenants of each id, from lines `{"id","tenants"}`; an id on several lines has those of all."""
    granted: dict[Id, list[str]] = {}
    for record in read_records(path, AccessRecord):
        granted.setdefault(record.id, []).extend(record.tenants)
    return granted
