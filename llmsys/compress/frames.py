"""Coded tensors on a pipe: framed records that need no seeking, of a magic, a length, a header, a payload, a checksum.

    b"LLMSCMP1"  u32 header bytes  u64 payload bytes  header (JSON)  payload  u64 xxh3-64 of header and payload

An array too large for memory goes as several frames, each a run of its rows. The part file of a resumable run is the
same stream. Knows no codec. What a header claims is compared with `memory` before anything is read by it.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import msgspec
import xxhash

from llmsys.compress.codecs import CODECS
from llmsys.compress.coded import Coded
from llmsys.compress.errors import BadBitstream
from llmsys.compress.records import TensorEntry, check_entry

__all__ = ["MAGIC", "Frame", "FrameHeader", "frame_bytes", "read_frames", "write_frame"]

MAGIC = b"LLMSCMP1"
LENGTHS = struct.Struct("<IQ")
CHECKSUM = struct.Struct("<Q")
MAX_HEADER_BYTES = 64 << 20
READ_BYTES = 1 << 20


class FrameHeader(msgspec.Struct, frozen=True, omit_defaults=True):
    """A tensor, or rows first_row … of an array of shape `whole`; a frame without an entry carries only a note."""

    name: str
    entry: TensorEntry | None = None
    whole: tuple[int, ...] | None = None
    first_row: int = 0
    note: str = ""


@dataclass(frozen=True, slots=True)
class Frame:
    """A header, the payload it describes, and the offset in the stream after it."""

    header: FrameHeader
    payload: bytes
    end: int


def write_frame(stream: BinaryIO, header: FrameHeader, coded: Coded | None = None) -> int:
    """Write one frame and return its length in bytes."""
    packed = msgspec.json.encode(header)
    digest = xxhash.xxh3_64(packed)
    blobs = coded.blobs if coded is not None else []
    length = sum(len(blob) for blob in blobs)
    stream.write(MAGIC + LENGTHS.pack(len(packed), length) + packed)
    for blob in blobs:
        digest.update(blob)
        stream.write(blob)
    stream.write(CHECKSUM.pack(digest.intdigest()))
    return frame_bytes(len(packed), length)


def frame_bytes(header_bytes: int, payload_bytes: int) -> int:
    """The length of a frame."""
    return len(MAGIC) + LENGTHS.size + header_bytes + payload_bytes + CHECKSUM.size


def read_frames(stream: BinaryIO, where: str, *, memory: int) -> Iterator[Frame]:
    """Yield frame after frame until the stream ends.

    Raises BadBitstream for a frame that is cut, damaged, over `memory` bytes, or whose record contradicts itself.
    """
    at, number = 0, 0
    while start := stream.read(len(MAGIC) + LENGTHS.size):
        place = f"{where}: frame {number} at offset {at}"
        if start[: len(MAGIC)] != MAGIC or len(start) < len(MAGIC) + LENGTHS.size:
            raise BadBitstream(place, f"starts with {start[:8]!r}", f"{MAGIC!r} and two lengths")
        header_bytes, payload_bytes = LENGTHS.unpack_from(start, len(MAGIC))
        if header_bytes > MAX_HEADER_BYTES or payload_bytes > memory:
            raise BadBitstream(place, f"{header_bytes} + {payload_bytes} bytes", f"at most --memory, {memory}")
        packed, payload = _exactly(stream, header_bytes, place), _exactly(stream, payload_bytes, place)
        (checksum,) = CHECKSUM.unpack(_exactly(stream, CHECKSUM.size, place))
        digest = xxhash.xxh3_64(packed)
        digest.update(payload)
        if digest.intdigest() != checksum:
            raise BadBitstream(place, "a checksum that does not match", "the bytes that encode wrote")
        header = _parsed(packed, place)
        if header.entry is not None:
            name = f"{place}: {header.name}"
            check_entry(header.entry, stored_bytes=len(payload), codecs=CODECS, where=name)
            if header.entry.values * (header.entry.format.bits // 8) > memory:
                raise BadBitstream(name, f"shape {header.entry.shape}", f"at most --memory, {memory} bytes")
        at += frame_bytes(header_bytes, payload_bytes)
        number += 1
        yield Frame(header, payload, at)


def _parsed(packed: bytes, place: str) -> FrameHeader:
    try:
        return msgspec.json.decode(packed, type=FrameHeader)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadBitstream(place, f"a header that does not decode ({error})", "what encode wrote") from error


def _exactly(stream: BinaryIO, length: int, place: str) -> bytes:
    """So many bytes; memory grows with what comes, not with what was claimed."""
    data = bytearray()
    while len(data) < length:
        piece = stream.read(min(READ_BYTES, length - len(data)))
        if not piece:
            raise BadBitstream(place, f"the stream ends {length - len(data)} bytes early", "whole frames")
        data += piece
    return bytes(data)
