"""Write a compressed file so that it appears whole or not at all, and can go on after a kill.

Coded tensors are appended to a part file as frames; when the last one is there, the frames' payloads become a
safetensors file beside its place, which is renamed. With `resume` the part file is OUT.part, kept through a kill, and
what it holds is checked and not coded again; without, it goes away with the run. Knows no codec.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import msgspec

from llmsys.artifacts import name_beside, replace_file
from llmsys.compress.coded import Coded
from llmsys.compress.errors import BadBitstream
from llmsys.compress.frames import CHECKSUM, FrameHeader, read_frames, write_frame
from llmsys.compress.records import DOCUMENT_KEY, VERSION, Document, TensorEntry, checksum_of
from llmsys.errors import UsageFault

__all__ = ["ContainerWriter", "open_writer", "part_path"]

COPY_BYTES = 1 << 20


class ContainerWriter:
    """Takes coded tensors in order; `done` holds the records of those that are there already."""

    def __init__(self, path: Path, stream: BinaryIO, done: dict[str, tuple[TensorEntry, int]]) -> None:
        self._path = path
        self._stream = stream
        self._places = done

    @property
    def done(self) -> dict[str, TensorEntry]:
        """Records by name, in the order they were added."""
        return {name: entry for name, (entry, _) in self._places.items()}

    def add(self, name: str, coded: Coded) -> None:
        """Append a tensor; it is durable when this returns."""
        write_frame(self._stream, FrameHeader(name, coded.entry), coded)
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._places[name] = (coded.entry, self._stream.tell() - CHECKSUM.size - coded.entry.stored_bytes)

    def finish(self) -> None:
        """Put the file in place. Tensors of the codec `raw` are stored as tensors of their own number format."""
        ordered = _file_order(self.done)
        header = _header({name: self._places[name][0] for name in ordered}, self.done)
        with replace_file(self._path) as out:
            out.write(len(header).to_bytes(8, "little") + header)
            for name in ordered:
                entry, place = self._places[name]
                self._stream.seek(place)
                left = entry.stored_bytes
                while left:
                    piece = self._stream.read(min(COPY_BYTES, left))
                    out.write(piece)
                    left -= len(piece)


def part_path(path: Path) -> Path:
    """Where a resumable run keeps what it has."""
    return path.with_name(path.name + ".part")


@contextmanager
def open_writer(path: Path, *, settings: str, resume: bool, memory: int) -> Iterator[ContainerWriter]:
    """A writer of `path`, which appears when the block ends.

    `settings` says everything that the bytes depend on: a part file of other settings raises UsageFault. What a kill
    left of the last frame is dropped. An exception leaves `path` as it was, and OUT.part too where `resume` is set.
    """
    part = part_path(path) if resume else name_beside(path)
    try:
        with part.open("a+b" if resume else "x+b") as stream:
            writer = ContainerWriter(path, stream, _recovered(stream, part, settings, memory))
            yield writer
            writer.finish()
        part.unlink()
    except BaseException:
        if not resume:
            part.unlink(missing_ok=True)
        raise


def _recovered(stream: BinaryIO, part: Path, settings: str, memory: int) -> dict[str, tuple[TensorEntry, int]]:
    """The tensors of a part file that are whole; the stream is cut after them, and begins with the settings."""
    places: dict[str, tuple[TensorEntry, int]] = {}
    stream.seek(0)
    end, found = 0, ""
    try:
        for frame in read_frames(stream, str(part), memory=memory):
            end = frame.end
            found = frame.header.note or found
            if frame.header.entry is not None:
                places[frame.header.name] = (frame.header.entry, end - CHECKSUM.size - len(frame.payload))
    except BadBitstream:
        pass  # a kill cut the last frame: what is whole before it counts
    if end and found != settings:
        raise UsageFault(f"{part} was begun with other settings or another input; remove it, or repeat the first run")
    stream.truncate(end)
    stream.seek(end)
    if not end:
        write_frame(stream, FrameHeader("", note=settings))
        stream.flush()
    return places


def _file_order(entries: dict[str, TensorEntry]) -> list[str]:
    """Names with the widest numbers first, so that each tensor begins where its numbers may; coded bytes come last."""
    bits = {name: entry.format.bits if entry.codec == "raw" else 8 for name, entry in entries.items()}
    return sorted(entries, key=lambda name: -bits[name])


def _header(entries: dict[str, TensorEntry], recorded: dict[str, TensorEntry]) -> bytes:
    """A safetensors header, filled with spaces to 8 bytes: one metadata key, whose records stand in the order of
    `recorded`, then every tensor in the order of `entries`."""
    document = msgspec.json.encode(Document(VERSION, checksum_of(recorded), recorded)).decode()
    header: dict[str, object] = {"__metadata__": {DOCUMENT_KEY: document}}
    offset = 0
    for name, entry in entries.items():
        size = entry.stored_bytes
        plain = entry.codec == "raw"
        shape = list(entry.shape) if plain else [size]
        stored = entry.format.stored if plain else "U8"
        header[name] = {"dtype": stored, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    packed = msgspec.json.encode(header)
    return packed + b" " * (-len(packed) % 8)
