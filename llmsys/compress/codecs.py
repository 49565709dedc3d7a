"""Every codec by name, and a coded tensor's values by span, whoever holds its bytes.

Knows which codecs there are; where bytes come from is the caller's. A payload is hashed before a codec sees it.
"""

from collections.abc import Callable

import numpy as np
import xxhash

from llmsys.compress.coded import Chunked
from llmsys.compress.errors import BadBitstream
from llmsys.compress.exact import decode_constant, decode_lossless, decode_raw
from llmsys.compress.number_formats import Words
from llmsys.compress.records import TensorEntry
from llmsys.compress.rounding import decode_rounded
from llmsys.compress.tensor_codec import decode_tq
from llmsys.compress.token_transform import decode_tokens
from llmsys.compress.video import VIDEO_CODECS, decode_video
from llmsys.compress.weighted import decode_weighted
from llmsys.errors import UsageFault

__all__ = ["CODECS", "check_trusted", "checked", "decode_all", "decode_span"]

CHUNKED: dict[str, Chunked] = {
    "lossless": decode_lossless,
    "raw": decode_raw,
    "rtn": decode_rounded,
    "tq": decode_tq,
    "ttq": decode_tokens,
    "wtq": decode_weighted,
}
CHUNKED |= dict.fromkeys(VIDEO_CODECS, decode_video)
CODECS = frozenset(CHUNKED) | {"constant"}

ReadBytes = Callable[[int, int], bytes]


def decode_span(entry: TensorEntry, read: ReadBytes, start: int, stop: int, where: str) -> Words:
    """Words of values start … stop, reading no more than the shared part and the chunks that hold them.

    `read(offset, length)` gives bytes of the tensor. Raises BadBitstream, naming the chunk, for bytes that do not match
    their checksum or do not decode.
    """
    side = checked(read(0, entry.side[0]), entry.side, f"{where}: shared part")
    result = np.empty(stop - start, entry.format.word)
    if entry.codec == "constant":
        return decode_constant(entry, side, start, stop, where)
    decode = CHUNKED[entry.codec]
    for number, chunk in enumerate(entry.chunks):
        first = chunk.first_line * entry.width
        after = first + entry.chunk_values(chunk)
        if first >= stop or after <= start:
            continue
        at = f"{where}: chunk {number}"
        payload = checked(read(chunk.offset, chunk.length), (chunk.length, chunk.checksum), at)
        words = decode(entry, side, payload, chunk, at)
        low, high = max(first, start), min(after, stop)
        result[low - start : high - start] = words[low - first : high - first]
    return result


def check_trusted(entry: TensorEntry, where: str, *, allow_video: bool) -> None:
    """Refuse a video stream unless it is allowed: a video decoder is far more code than a stranger should reach.

    Raises UsageFault at `where`.
    """
    if entry.codec in VIDEO_CODECS and not allow_video:
        raise UsageFault(f"{where} is a video stream; give --allow-video if you trust who wrote it")


def decode_all(entry: TensorEntry, data: bytes, where: str) -> Words:
    """All words of a coded tensor whose bytes are in memory."""
    return decode_span(entry, lambda offset, length: data[offset : offset + length], 0, entry.values, where)


def checked(data: bytes, expected: tuple[int, int], where: str) -> bytes:
    """The bytes, if their length and xxh3-64 are as recorded. Raises BadBitstream at `where`."""
    length, checksum = expected
    if len(data) != length:
        raise BadBitstream(where, f"{len(data)} bytes", f"{length}")
    if xxhash.xxh3_64_intdigest(data) != checksum:
        raise BadBitstream(where, "a checksum that does not match", "the bytes that encode wrote")
    return data
