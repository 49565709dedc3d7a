"""Codecs that keep every bit: `raw`, `constant` and `lossless` (exponents by rANS, the other bits as they are).

`lossless` splits a word into the sign and low bits, which are noise in weights and go unchanged, and the up to 8 bits
between them, the exponent first, which are not: those are coded under the class of their line and column. NaN payloads,
negative zeros and denormals come back. Knows no file.
"""

import struct

import numpy as np
from numpy.typing import NDArray

from llmsys.compress.bit_codes import read_numbers, unzigzag, write_numbers, zigzag
from llmsys.compress.coded import Coded, Numbers, chunk_map, pack
from llmsys.compress.errors import BadBitstream
from llmsys.compress.frequency_tables import plain, read_plain, write_plain
from llmsys.compress.number_formats import NumberFormat, Words
from llmsys.compress.rans import U8, Grid, decode, encode, slot_tables
from llmsys.compress.records import Chunk, TensorEntry
from llmsys.compress.trellis import SCALAR

__all__ = [
    "constant_word",
    "decode_constant",
    "decode_lossless",
    "decode_raw",
    "encode_constant",
    "encode_lossless",
    "encode_raw",
]

CLASSES = 8
HEAD = struct.Struct("<I")

I16 = NDArray[np.int16]


def encode_raw(numbers: Numbers) -> Coded:
    """Store the words as they are, in chunks with checksums."""
    layout = numbers.layout
    return pack(numbers, "raw", b"", [numbers.read(*layout.span(*span)).tobytes() for span in layout.chunks()])


def decode_raw(entry: TensorEntry, side: bytes, payload: bytes, chunk: Chunk, where: str) -> Words:
    """The words of a chunk."""
    expected = entry.chunk_values(chunk) * entry.format.word.itemsize
    if len(payload) != expected or side:
        raise BadBitstream(where, f"{len(payload)} bytes", f"{expected}")
    return np.frombuffer(payload, entry.format.word)


def constant_word(numbers: Numbers) -> Words | None:
    """The one word [1] that the whole tensor consists of; None where words differ or there are none."""
    layout = numbers.layout
    first = None
    for span in layout.chunks():
        words = numbers.read(*layout.span(*span))
        first = words[:1].copy() if first is None else first
        if (words != first).any():
            return None
    return first


def encode_constant(numbers: Numbers, word: Words) -> Coded:
    """A tensor of one word in the bytes of that word."""
    return pack(numbers, "constant", word.tobytes(), [])


def decode_constant(entry: TensorEntry, side: bytes, start: int, stop: int, where: str) -> Words:
    """Words start … stop of a constant tensor."""
    if len(side) != entry.format.word.itemsize:
        raise BadBitstream(where, f"a constant of {len(side)} bytes", f"{entry.format.word.itemsize}")
    return np.full(stop - start, np.frombuffer(side, entry.format.word)[0])


def encode_lossless(numbers: Numbers, *, jobs: int = 1) -> Coded:
    """Keep every bit of a float tensor in fewer of them; the same bytes for any number of jobs."""
    layout, kind = numbers.layout, numbers.format

    def levels_of(first: int, lines: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        symbols, _ = _split(numbers.read(*layout.span(first, lines)), kind)
        return _line_means(symbols, layout.width), _column_sums(symbols, layout.width)

    found = list(chunk_map(levels_of, layout, jobs))
    line_level = np.concatenate([lines for lines, _ in found])
    columns = sum(sums for _, sums in found) / layout.lines
    average = float(line_level.mean())
    shift = columns - columns.mean() if layout.columns else np.zeros(layout.width)
    column_class = _classes(shift, kind) + np.int16(CLASSES // 2)
    line_class = _classes(line_level - average, kind)

    def counts_of(first: int, lines: int) -> NDArray[np.int64]:
        symbols, _ = _split(numbers.read(*layout.span(first, lines)), kind)
        contexts = _contexts(line_class[first : first + lines], column_class, len(symbols), layout.width)
        flat = np.bincount(contexts.astype(np.int64) * 256 + symbols, minlength=256 * CLASSES)
        return flat.reshape(CLASSES, 256)

    tables = plain(np.asarray(sum(chunk_map(counts_of, layout, jobs))))

    def payload_of(first: int, lines: int) -> bytes:
        symbols, rest = _split(numbers.read(*layout.span(first, lines)), kind)
        own = line_class[first : first + lines]
        contexts = _contexts(own, column_class, len(symbols), layout.width)
        words = encode(symbols, contexts, _grid(own, column_class, len(symbols), layout.width), tables)
        classes = write_numbers(zigzag(own.astype(np.int64)), 0)
        return HEAD.pack(len(classes)) + classes + rest + words.tobytes()

    columns_side = write_numbers(zigzag(column_class.astype(np.int64)), 0)
    side = HEAD.pack(len(columns_side)) + columns_side + write_plain(tables)
    return pack(numbers, "lossless", side, list(chunk_map(payload_of, layout, jobs)))


def decode_lossless(entry: TensorEntry, side: bytes, payload: bytes, chunk: Chunk, where: str) -> Words:
    """The words of a chunk."""
    kind, values = entry.format, entry.chunk_values(chunk)
    column_part, table_part = _parts(side)
    line_part, rest = _parts(payload)
    columns = read_numbers(column_part, entry.width, 0)
    lines = read_numbers(line_part, chunk.lines, 0)
    tables = read_plain(table_part, CLASSES, 256)
    if columns is None or lines is None or tables is None or not kind.is_float:
        raise BadBitstream(where, "classes or tables that do not decode", "what encode wrote")
    kept = _rest_bytes(values, kind)
    words = np.frombuffer(rest[kept : kept + (len(rest) - kept) // 2 * 2], "<u2")
    grid = _grid(_short(lines), _short(columns), values, entry.width)
    machine = SCALAR
    symbols = decode(words, grid, slot_tables(tables), machine.transitions, machine.quantisers, middle=0)
    if symbols is None or (len(rest) - kept) % 2 or len(rest) < kept:
        raise BadBitstream(where, "a stream of exponents that does not decode", "what encode wrote")
    return _joined(symbols.astype(np.uint8), rest[:kept], kind)


def _parts(data: bytes) -> tuple[bytes, bytes]:
    """What the leading length counts, and the rest; a length that lies gives parts too short to decode."""
    if len(data) < HEAD.size:
        return b"", b""
    end = HEAD.size + HEAD.unpack_from(data)[0]
    return data[HEAD.size : end], data[end:]


def _short(codes: NDArray[np.int64]) -> I16:
    return np.clip(unzigzag(codes), -CLASSES, CLASSES).astype(np.int16)


def _grid(line_class: I16, column_class: I16, values: int, width: int) -> Grid:
    return Grid(values, width, line_class, column_class, CLASSES)


def _middle_bits(kind: NumberFormat) -> int:
    """Bits of a word that are coded: those after the sign, at most 8."""
    return min(8, kind.bits - 1)


def _split(words: Words, kind: NumberFormat) -> tuple[U8, bytes]:
    """The coded bits of words [n] as uint8 [n], and the other bits as bytes: planes of 8, then single bits packed."""
    low, word = kind.bits - 1 - _middle_bits(kind), kind.word.type
    symbols = ((words >> word(low)) & word((1 << _middle_bits(kind)) - 1)).astype(np.uint8)
    rest = (words & word((1 << low) - 1)) | ((words >> word(kind.bits - 1)) << word(low))
    if low == 0:
        return symbols, np.packbits(rest.astype(np.uint8)).tobytes()
    planes = [(rest >> word(8 * p)).astype(np.uint8).tobytes() for p in range((low + 1) // 8)]
    return symbols, b"".join(planes)


def _rest_bytes(values: int, kind: NumberFormat) -> int:
    low = kind.bits - 1 - _middle_bits(kind)
    return (values + 7) // 8 if low == 0 else values * ((low + 1) // 8)


def _joined(symbols: U8, rest: bytes, kind: NumberFormat) -> Words:
    low, n, word = kind.bits - 1 - _middle_bits(kind), len(symbols), kind.word.type
    plain_bits = np.frombuffer(rest, np.uint8)
    kept: Words = np.zeros(n, kind.word)
    if low == 0:
        kept |= np.unpackbits(plain_bits)[:n]
    for p in range((low + 1) // 8):
        kept |= plain_bits[p * n : (p + 1) * n].astype(kind.word) << word(8 * p)
    words: Words = (kept >> word(low)) << word(kind.bits - 1)
    words |= symbols.astype(kind.word) << word(low)
    words |= kept & word((1 << low) - 1)
    return words


def _line_means(symbols: U8, width: int) -> NDArray[np.float64]:
    full = len(symbols) // width * width
    means = symbols[:full].reshape(-1, width).mean(1) if full else np.zeros(0)
    return means if full == len(symbols) else np.append(means, symbols[full:].mean())


def _column_sums(symbols: U8, width: int) -> NDArray[np.float64]:
    full = len(symbols) // width * width
    sums = symbols[:full].reshape(-1, width).sum(0, dtype=np.float64)
    sums[: len(symbols) - full] += symbols[full:]
    return np.asarray(sums)


def _classes(levels: NDArray[np.float64], kind: NumberFormat) -> I16:
    """Half octaves above or below the average; symbols of a format with spare bits hold some of the mantissa."""
    per_octave = 2.0 ** (_middle_bits(kind) - min(8, kind.exponent_bits))
    return np.clip(np.round(2 * levels / per_octave), -CLASSES // 2, CLASSES // 2).astype(np.int16)


def _contexts(line_class: I16, column_class: I16, values: int, width: int) -> I16:
    contexts = np.clip(line_class[:, None] + column_class[None, :], 0, CLASSES - 1)
    return np.ascontiguousarray(contexts.reshape(-1)[:values].astype(np.int16))
