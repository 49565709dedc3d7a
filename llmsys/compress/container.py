"""One compressed file: safetensors whose coded tensors are U8, described under one metadata key.

Opens by checking the header against the file's size and reads nothing else; a tensor, or rows of one, reads only the
shared part and the chunks that hold them. Knows no codec. A tensor that was left as it was is read as it is.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
import numpy as np

from llmsys.artifacts import TensorFile, open_tensors
from llmsys.compress.blob import Blob, blob_of
from llmsys.compress.codecs import CODECS, check_trusted, checked, decode_span
from llmsys.compress.coded import Coded, Numbers
from llmsys.compress.errors import BadBitstream
from llmsys.compress.number_formats import NumberFormat, Words, number_format
from llmsys.compress.records import DOCUMENT_KEY, VERSION, Chunk, Document, TensorEntry, check_entry, checksum_of

__all__ = ["Container", "file_bytes", "is_compressed", "largest_record", "record_bytes"]

LARGEST = (1 << 64) - 1


def is_compressed(file: TensorFile) -> bool:
    """Whether a safetensors file is one of ours."""
    return DOCUMENT_KEY in file.metadata


class Container:
    """An open compressed file; `bytes_read` counts what its tensors cost, the header left out.

    Video streams decode only with `allow_video`. Raises BadBitstream for a record that contradicts the file, another
    version, or a codec that is not known; OSError for a file that cannot be read.
    """

    def __init__(self, path: Path, *, allow_video: bool = False) -> None:
        self.path = path
        self._allow_video = allow_video
        self._file = open_tensors(path)
        self.entries = _read_document(self._file).tensors
        self._check()
        self._descriptor = os.open(path, os.O_RDONLY)
        self.size = os.fstat(self._descriptor).st_size
        self.bytes_read = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the file back."""
        os.close(self._descriptor)

    def names(self) -> list[str]:
        """Every tensor, in the file's order."""
        return list(self._file.tensors)

    def entry(self, name: str) -> TensorEntry | None:
        """The record of a coded tensor; None for one that is stored as it was. Raises BadInput for no such tensor."""
        self._file.info(name)
        return self.entries.get(name)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor as it decodes."""
        entry = self.entry(name)
        return entry.shape if entry is not None else self._file.info(name).shape

    def format(self, name: str) -> NumberFormat:
        """The number format of a tensor as it decodes. Raises BadBitstream for one that is not known."""
        entry = self.entry(name)
        if entry is not None:
            return entry.format
        stored = self._file.info(name).dtype
        known = number_format(stored)
        if known is None:
            raise BadBitstream(f"{self.path}: {name}", f"number format {stored}", "one that decode knows")
        return known

    def stored_bytes(self, name: str) -> int:
        """Bytes of a tensor in the file, its record and its line of the header included."""
        begin, end = self._file.info(name).data_offsets
        entry = self.entry(name)
        return end - begin + (record_bytes(name, entry) if entry is not None else 0)

    def words(self, name: str, start: int = 0, stop: int | None = None) -> Words:
        """Values start … stop of a tensor as words, in C order. Raises BadBitstream that names tensor and chunk."""
        stop = math.prod(self.shape(name)) if stop is None else stop
        entry, base = self.entry(name), self._file.data_start + self._file.info(name).data_offsets[0]
        if entry is not None:
            check_trusted(entry, f"{self.path}: {name}", allow_video=self._allow_video)
            return decode_span(
                entry, lambda at, length: self._read(base + at, length), start, stop, f"{self.path}: {name}"
            )
        word = self.format(name).word
        data = self._read(base + start * word.itemsize, (stop - start) * word.itemsize)
        return np.frombuffer(data, word)

    def blob(self, name: str) -> Blob:
        """A tensor's bytes with its record. Raises BadInput for no such tensor."""
        entry, info = self.entry(name), self._file.info(name)
        if entry is None:
            raise BadBitstream(f"{self.path}: {name}", "no record", "what encode wrote")
        begin, end = info.data_offsets
        return blob_of(Coded(entry, [self._read(self._file.data_start + begin, end - begin)]))

    def check(self, name: str, *, deep: bool) -> None:
        """Compare every checksum of a tensor; `deep` decodes it too. Raises BadBitstream with tensor and chunk."""
        entry, base = self.entry(name), self._file.data_start + self._file.info(name).data_offsets[0]
        if entry is None:
            return
        where = f"{self.path}: {name}"
        checked(self._read(base, entry.side[0]), entry.side, f"{where}: shared part")
        for number, chunk in enumerate(entry.chunks):
            payload = self._read(base + chunk.offset, chunk.length)
            checked(payload, (chunk.length, chunk.checksum), f"{where}: chunk {number}")
        if deep:
            for start, stop in self.spans(name):
                self.words(name, start, stop)

    def spans(self, name: str) -> Iterator[tuple[int, int]]:
        """Runs of values that together are the tensor, each of bounded size: the chunks of a coded one."""
        entry, values = self.entry(name), math.prod(self.shape(name))
        if entry is None or not entry.chunks:
            step = 1 << 20
            yield from ((start, min(start + step, values)) for start in range(0, values, step))
            return
        for chunk in entry.chunks:
            start = chunk.first_line * entry.width
            yield start, start + entry.chunk_values(chunk)

    def _read(self, offset: int, length: int) -> bytes:
        data = os.pread(self._descriptor, length, offset)
        self.bytes_read += len(data)
        return data

    def _check(self) -> None:
        for name, entry in self.entries.items():
            where = f"{self.path}: {name}"
            info = self._file.tensors.get(name)
            if info is None or (entry.codec != "raw" and (info.dtype != "U8" or len(info.shape) != 1)):
                raise BadBitstream(where, "a record without its bytes", "a U8 tensor of that name")
            begin, end = info.data_offsets
            check_entry(entry, stored_bytes=end - begin, codecs=CODECS, where=where)
            if entry.codec == "raw" and (info.dtype, info.shape) != (entry.format.stored, entry.shape):
                raise BadBitstream(where, f"a record of {entry.dtype} {entry.shape}", f"{info.dtype} {info.shape}")


def record_bytes(name: str, entry: TensorEntry) -> int:
    """What a coded tensor takes in a file's header: its record, a string within JSON, and its line beside the data."""
    record = msgspec.json.encode({name: entry}).decode()
    quoted = len(msgspec.json.encode(record)) - 3
    offsets = len(str(entry.stored_bytes)) + 2 * 10
    return quoted + len(name.encode()) + offsets + len('"":{"dtype":"U8","shape":[],"data_offsets":[,]},')


def file_bytes() -> int:
    """What a file takes beside its tensors and their records: the header's frame, filled up to 8 bytes."""
    document = msgspec.json.encode(Document(VERSION, LARGEST, {})).decode()
    return 8 + 7 + len(msgspec.json.encode({"__metadata__": {DOCUMENT_KEY: document}}))


def largest_record(numbers: Numbers, stored_bytes: int) -> TensorEntry:
    """A record of a tensor coded into so many bytes, every other number as long as it may get."""
    layout = numbers.layout
    table = [Chunk(first, lines, stored_bytes, stored_bytes, LARGEST) for first, lines in layout.chunks()]
    side = (min(stored_bytes, 9_999), LARGEST)
    return TensorEntry(
        numbers.shape, numbers.format.name, "tq", layout.width, side, tuple(table), nmse=0.012345678901234567
    )


def _read_document(file: TensorFile) -> Document:
    where = f"{file.path}: metadata {DOCUMENT_KEY!r}"
    if DOCUMENT_KEY not in file.metadata:
        raise BadBitstream(where, "not there", "a file that `llmsys compress encode` wrote")
    try:
        found = msgspec.json.decode(file.metadata[DOCUMENT_KEY].encode(), type=Document)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadBitstream(where, f"no record of tensors ({error})", "what encode wrote") from error
    if found.version != VERSION:
        raise BadBitstream(where, f"format version {found.version}", f"version {VERSION}")
    if found.checksum != checksum_of(found.tensors):
        raise BadBitstream(where, "records that do not match their checksum", "what encode wrote")
    return found
