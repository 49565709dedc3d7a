"""Round to nearest in groups of 64 along a line (RTN): the codec that users know, in the same container as the others.

A group is `low + code · step` with codes of 1 to 8 whole bits, and low and step in float16: b + 0.5 bits per value. A
rate between two of these is met by the lower one, never exceeded. Knows no file; it is fast and coarse, and here to be
compared with.
"""

import struct

import msgspec
import numpy as np
from numpy.typing import NDArray

from llmsys.compress.coded import Coded, Numbers, Target, chunk_map, pack
from llmsys.compress.errors import BadBitstream, TargetUnreachable
from llmsys.compress.number_formats import F32, Words, from_words, to_words
from llmsys.compress.records import Chunk, TensorEntry
from llmsys.compress.scale_classes import measure_scales
from llmsys.compress.tensor_codec import STRANGE

__all__ = ["GROUP", "decode_rounded", "encode_rounded"]

GROUP = 64
WIDEST = 8
HEAD = struct.Struct("<I")
U8 = NDArray[np.uint8]
U16 = NDArray[np.uint16]


def encode_rounded(numbers: Numbers, target: Target, *, jobs: int = 1) -> Coded:
    """Code a float tensor with the most bits that its bytes allow, or the fewest that stay within the error.

    Raises TargetUnreachable with the range, UnsupportedValues for too many infinities and NaNs.
    """
    variance = measure_scales(numbers, jobs=jobs).variance
    widths = range(WIDEST, 0, -1) if target.stored_bytes is not None else range(1, WIDEST + 1)
    for bits in widths:
        found = _coded(numbers, bits, variance, jobs)
        if target.stored_bytes is not None and found.entry.stored_bytes <= target.stored_bytes:
            return found
        if target.nmse is not None and (found.entry.nmse or 0.0) <= target.nmse:
            return found
    least = 8 * found.entry.stored_bytes / numbers.layout.values
    if target.stored_bytes is not None:
        message = f"{numbers.name}: rtn takes {least:.3f} bits per value or more; expected --bits over that"
        raise TargetUnreachable(message, reachable=(least, 8.5))
    reached = found.entry.nmse or 0.0
    message = f"{numbers.name}: rtn of {WIDEST} bits has an error of {reached:.2g}; expected --nmse over that"
    raise TargetUnreachable(message, reachable=(reached, 1.0))


def decode_rounded(entry: TensorEntry, side: bytes, payload: bytes, chunk: Chunk, where: str) -> Words:
    """Words of a chunk, rounded to the tensor's number format."""
    values = entry.chunk_values(chunk)
    groups = -(-values // GROUP)
    bits = side[0] if len(side) == 1 else 0
    strange_count = HEAD.unpack_from(payload)[0] if len(payload) >= HEAD.size else 0
    sizes_at = HEAD.size + strange_count * STRANGE.itemsize
    codes_at = sizes_at + 4 * groups
    if not 1 <= bits <= WIDEST or len(payload) != codes_at + groups * GROUP * bits // 8:
        raise BadBitstream(where, f"{len(payload)} bytes of {bits}-bit codes", f"groups of {GROUP} for {values} values")
    sizes = np.frombuffer(payload, "<f2", 2 * groups, sizes_at).astype(np.float32).reshape(groups, 2)
    codes = _unpacked(np.frombuffer(payload, np.uint8, offset=codes_at), bits).reshape(groups, GROUP)
    result = _restored(codes, sizes).reshape(-1)[:values]
    strange = np.frombuffer(payload, STRANGE, strange_count, HEAD.size)
    if strange_count and int(strange["at"].max()) >= values:
        raise BadBitstream(where, "an exact value outside of the chunk", f"places below {values}")
    result[strange["at"]] = strange["value"]
    return to_words(result, entry.format)


def _coded(numbers: Numbers, bits: int, variance: float, jobs: int) -> Coded:
    def work(first: int, lines: int) -> tuple[bytes, float]:
        values = numbers.floats(*numbers.layout.span(first, lines))
        return _payload(values, bits, numbers)

    done = list(chunk_map(work, numbers.layout, jobs))
    found = pack(numbers, "rtn", bytes([bits]), [payload for payload, _ in done])
    error = sum(error for _, error in done) / numbers.layout.values
    return Coded(msgspec.structs.replace(found.entry, nmse=error / variance if variance > 0 else 0.0), found.blobs)


def _payload(values: F32, bits: int, numbers: Numbers) -> tuple[bytes, float]:
    """A chunk's bytes, and the sum of squared errors of what decoding gives."""
    groups = -(-len(values) // GROUP)
    kept = ~np.isfinite(values) | (np.abs(values) > np.finfo(np.float16).max)
    padded = np.zeros(groups * GROUP, np.float32)
    padded[: len(values)] = np.where(kept, np.float32(0), values)
    padded[len(values) :] = padded[len(values) - 1]
    table = padded.reshape(groups, GROUP)
    low = table.min(1).astype(np.float16)
    step = ((table.max(1) - low.astype(np.float32)) / (2**bits - 1)).astype(np.float16)
    sizes = np.stack([low, step], axis=1)
    width = np.where(step > 0, step, 1).astype(np.float32)[:, None]
    codes = np.clip(np.round((table - low.astype(np.float32)[:, None]) / width), 0, 2**bits - 1).astype(np.uint8)
    places = np.flatnonzero(kept)
    strange = np.zeros(len(places), STRANGE)
    strange["at"], strange["value"] = places, values[places]
    restored = _restored(codes, sizes.astype(np.float32)).reshape(-1)[: len(values)]
    gap = np.where(
        kept, 0.0, values.astype(np.float64) - from_words(to_words(restored, numbers.format), numbers.format)
    )
    return HEAD.pack(len(places)) + strange.tobytes() + sizes.tobytes() + _packed(codes, bits), float((gap * gap).sum())


def _restored(codes: U8, sizes: F32) -> F32:
    return np.asarray(sizes[:, :1] + codes.astype(np.float32) * sizes[:, 1:], np.float32)


def _packed(codes: U8, bits: int) -> bytes:
    """Codes as `bits` bits each, the highest first."""
    return np.packbits(np.unpackbits(codes.reshape(-1, 1), axis=1)[:, 8 - bits :]).tobytes()


def _unpacked(data: U8, bits: int) -> U8:
    spread = np.unpackbits(data).reshape(-1, bits)
    return np.packbits(np.pad(spread, ((0, 0), (8 - bits, 0))), axis=1).reshape(-1)
