"""Byte streams that a suffix may say are compressed: `.gz` and `.zst`, read without trust and written reproducibly.

Knows nothing of lines or records. Memory while reading is bounded (about 128 MiB at the worst ratio zstd allows),
whatever the archive claims.
"""

import gzip
import io
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import zstandard

from llmsys.artifacts.atomic import replace_file
from llmsys.errors import BadInput

__all__ = ["open_source", "reading_faults", "source_name", "write_compressed"]

# 128 MiB can come out of this much zstd (a block of 128 KiB takes 4 bytes), 4 MiB out of as much deflate.
COMPRESSED_CHUNK_BYTES = 4096


def source_name(source: str | Path) -> str:
    """What errors call a source: its path, or stdin."""
    return "stdin" if str(source) == "-" else str(source)


@contextmanager
def open_source(source: str | Path) -> Iterator[BinaryIO]:
    """Yield the plain bytes of a file, decompressed by its suffix; `-` is stdin, never compressed and never closed.

    Raises OSError for a file that cannot be opened and BadInput for an archive of no bytes. Other damage raises while
    it is read: wrap reads in `reading_faults`.
    """
    if str(source) == "-":
        yield sys.stdin.buffer
        return
    with Path(source).open("rb") as raw:
        suffix = Path(source).suffix
        if suffix in (".gz", ".zst") and not raw.peek(1):
            raise BadInput(str(source), "an empty file", "a complete gzip or zstd file")
        match suffix:
            case ".gz":
                with gzip.GzipFile(fileobj=raw) as plain:
                    yield cast("BinaryIO", plain)
            case ".zst":
                with io.BufferedReader(_ZstdFrames(raw)) as plain:
                    yield cast("BinaryIO", plain)
            case _:
                yield raw


@contextmanager
def reading_faults(source: str | Path) -> Iterator[None]:
    """Turn what a damaged archive raises into BadInput that names it."""
    try:
        yield
    except EOFError as error:
        raise BadInput(source_name(source), "the archive ends too early", "a complete gzip or zstd file") from error
    except (gzip.BadGzipFile, zlib.error, zstandard.ZstdError) as error:
        raise BadInput(source_name(source), f"a damaged archive ({error})", "what its suffix says") from error


@contextmanager
def write_compressed(path: Path) -> Iterator[BinaryIO]:
    """Yield a stream that becomes `path` by rename, compressed as its suffix says; same bytes in, same bytes out."""
    with replace_file(path) as raw:
        match path.suffix:
            case ".gz":
                # No name and no time in the header: both would differ from run to run.
                with gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed:
                    yield cast("BinaryIO", packed)
            case ".zst":
                with zstandard.ZstdCompressor().stream_writer(raw, closefd=False) as packed:
                    yield packed
            case _:
                yield raw


class _ZstdFrames(io.RawIOBase):
    """The content of one zstd frame after another; raises EOFError where the last one is cut.

    `zstandard.stream_reader` takes a cut frame for a finished one, so frames are followed here.
    """

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._packed = b""
        self._plain = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "memoryview[int]", /) -> int:  # type: ignore[override]
        while not self._plain:
            if not self._advance():
                return 0
        count = min(len(buffer), len(self._plain))
        buffer[:count] = self._plain[:count]
        self._plain = self._plain[count:]
        return count

    def _advance(self) -> bool:
        """Decompress one more chunk; False at a proper end."""
        packed = self._packed or self._raw.read(COMPRESSED_CHUNK_BYTES)
        self._packed = b""
        if not packed:
            if self._frame is not None:
                raise EOFError
            return False
        if self._frame is None:
            self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._plain = memoryview(self._frame.decompress(packed))
        if self._frame.eof:
            self._packed = self._frame.unused_data
            self._frame = None
        return True
