"""Decode compressed files and streams back into tensors: .npy, .safetensors, a directory, or .npy on a pipe.

Reads and writes chunk by chunk, so that no tensor has to fit in memory. Knows no codec.
"""

import math
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np
from numpy.typing import NDArray

from llmsys.artifacts import open_tensors, replace_file
from llmsys.compress.codecs import check_trusted, decode_all
from llmsys.compress.container import Container, is_compressed
from llmsys.compress.errors import BadBitstream
from llmsys.compress.frames import Frame, read_frames
from llmsys.compress.number_formats import FORMATS, NumberFormat, Words, from_words, to_words
from llmsys.errors import BadInput, UsageFault

__all__ = ["Archive", "Piece", "decode_stream", "parse_rows", "write_array", "write_directory_of", "write_safetensors"]


@dataclass(frozen=True, slots=True)
class Piece:
    """What to decode of a tensor: values start … stop of it, their shape, and the format they come in."""

    container: Container
    name: str
    start: int
    stop: int
    shape: tuple[int, ...]
    format: NumberFormat

    def words(self) -> Iterator[Words]:
        """The values in order, in runs of bounded size."""
        source = self.container.format(self.name)
        for low, high in self.container.spans(self.name):
            first, last = max(low, self.start), min(high, self.stop)
            if first < last:
                words = self.container.words(self.name, first, last)
                yield words if source == self.format else to_words(from_words(words, source), self.format)


class Archive:
    """An open compressed file, or a directory of them: tensors by name, and where each lies."""

    def __init__(self, path: Path, *, allow_video: bool = False) -> None:
        self.path = path
        files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
        files = [file for file in files if not path.is_dir() or is_compressed(open_tensors(file))]
        if not files:
            raise BadInput(str(path), "no compressed file in it", "what `llmsys compress encode` wrote")
        self._stack = ExitStack()
        self.containers = [self._stack.enter_context(Container(file, allow_video=allow_video)) for file in files]
        self._places = {name: container for container in self.containers for name in container.names()}

    def __enter__(self) -> "Archive":
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def names(self) -> list[str]:
        """Every tensor."""
        return list(self._places)

    def container(self, name: str) -> Container:
        """The file of a tensor. Raises BadInput that lists the names there are."""
        if name not in self._places:
            raise BadInput(str(self.path), f"no tensor {name!r}", f"one of {', '.join(sorted(self._places)[:20])}")
        return self._places[name]

    def piece(self, name: str, *, rows: tuple[int, int] | None = None, dtype: str | None = None) -> Piece:
        """A tensor, or rows A … B of it, in its own number format or another. Raises UsageFault for rows it lacks."""
        container = self.container(name)
        shape, own = container.shape(name), container.format(name)
        wanted = own if dtype is None or not own.is_float else FORMATS[dtype]
        if rows is None:
            return Piece(container, name, 0, math.prod(shape), shape, wanted)
        if not shape or not 0 <= rows[0] <= rows[1] <= shape[0]:
            raise UsageFault(f"rows {rows[0]}:{rows[1]} of {name!r}, whose shape is {list(shape)}")
        inner = math.prod(shape[1:])
        return Piece(container, name, rows[0] * inner, rows[1] * inner, (rows[1] - rows[0], *shape[1:]), wanted)

    def array(self, name: str, *, rows: tuple[int, int] | None = None) -> NDArray[Any]:
        """A tensor as a numpy array; bfloat16 and float8 as float32."""
        piece = self.piece(name, rows=rows)
        words = np.concatenate([np.zeros(0, piece.format.word), *piece.words()])
        return _as_numpy(words, piece.format).reshape(piece.shape)


def parse_rows(text: str) -> tuple[int, int]:
    """A:B. Raises UsageFault for anything else.

    >>> parse_rows("0:64")
    (0, 64)
    """
    first, _, last = text.partition(":")
    if not (first.isdecimal() and last.isdecimal()):
        raise UsageFault(f"--rows {text!r}; expected A:B, two whole numbers")
    return int(first), int(last)


def write_array(stream: BinaryIO, piece: Piece) -> None:
    """Write a piece as one .npy; bfloat16 and float8, which numpy lacks, as float32."""
    _write_npy_header(stream, _numpy_dtype(piece.format), piece.shape)
    for words in piece.words():
        stream.write(_as_numpy(words, piece.format).tobytes())


def write_safetensors(path: Path, pieces: list[Piece]) -> None:
    """Write pieces as a plain safetensors file, whole or not at all."""
    ordered = sorted(pieces, key=lambda piece: -piece.format.bits)
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for piece in ordered:
        size = (piece.stop - piece.start) * piece.format.word.itemsize
        shape = list(piece.shape)
        header[piece.name] = {"dtype": piece.format.stored, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    packed = msgspec.json.encode(header)
    packed += b" " * (-len(packed) % 8)
    with replace_file(path) as stream:
        stream.write(len(packed).to_bytes(8, "little") + packed)
        for piece in ordered:
            for words in piece.words():
                stream.write(words.tobytes())


def write_directory_of(archive: Archive, out: Path, *, dtype: str | None = None) -> None:
    """Write every file of a compressed directory as a plain one, and copy what lies beside them."""
    out.mkdir(exist_ok=True)
    coded = {container.path.name for container in archive.containers}
    for file in sorted(archive.path.iterdir()):
        if file.is_file() and file.name not in coded and file.suffix not in (".part", ".tmp"):
            with replace_file(out / file.name) as stream, file.open("rb") as original:
                shutil.copyfileobj(original, stream)
    for container in archive.containers:
        pieces = [archive.piece(name, dtype=dtype) for name in container.names()]
        write_safetensors(out / container.path.name, pieces)


def decode_stream(source: BinaryIO, name: str, out: BinaryIO, *, memory: int, allow_video: bool = False) -> int:
    """Turn frames into .npy arrays, one after another; returns how many. Raises BadBitstream as `read_frames` does."""
    arrays, open_rows = 0, 0
    whole: tuple[int, ...] = ()
    for frame in read_frames(source, name, memory=memory):
        entry = frame.header.entry
        if entry is None:
            continue
        check_trusted(entry, f"{name}: {frame.header.name}", allow_video=allow_video)
        if not open_rows:
            whole = frame.header.whole or entry.shape
            open_rows = whole[0] if whole else 1
            _write_npy_header(out, _numpy_dtype(entry.format), whole)
            arrays += 1
        open_rows = _write_run(frame, out, whole, open_rows, f"{name}: {frame.header.name}")
    if open_rows:
        raise BadBitstream(name, f"the stream ends {open_rows} rows early", "every run of rows of an array")
    return arrays


def _write_run(frame: Frame, out: BinaryIO, whole: tuple[int, ...], open_rows: int, where: str) -> int:
    """Write one run of rows and return how many rows of its array are still to come."""
    entry = frame.header.entry
    assert entry is not None
    rows = entry.shape[0] if entry.shape else 1
    first = (whole[0] if whole else 1) - open_rows
    if entry.shape[1:] != tuple(whole[1:]) or frame.header.first_row != first or rows > open_rows:
        wrong = f"rows {frame.header.first_row} to {frame.header.first_row + rows} of shape {list(whole)}"
        raise BadBitstream(where, wrong, f"rows from {first} on")
    out.write(_as_numpy(decode_all(entry, frame.payload, where), entry.format).tobytes())
    return open_rows - rows


def _numpy_dtype(kind: NumberFormat) -> np.dtype[Any]:
    if kind.name == "bf16" or kind.name.startswith("f8_"):
        return np.dtype("<f4")
    if kind.is_float:
        return np.dtype(f"<f{kind.bits // 8}")
    return np.dtype("?" if kind.name == "bool" else f"<{kind.name[0]}{kind.bits // 8}")


def _as_numpy(words: Words, kind: NumberFormat) -> NDArray[Any]:
    if kind.name == "bf16" or kind.name.startswith("f8_"):
        return from_words(words, kind)
    return words.view(_numpy_dtype(kind))


def _write_npy_header(stream: BinaryIO, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
