"""The codec `tq`: one step for a whole tensor, dependent quantisation, and rANS under the classes of line and column.

    values − centre, in steps → trellis → symbols → rANS; infinities and NaNs beside the stream, exactly

A line's and a column's class say how large their values are, so that rows of different size get different rates from
the same step, which is what the least squared error asks for. The tables of all classes, the columns' classes and the
points of reconstruction are shared by all chunks; a chunk holds its lines' classes, its escapes and its words, and
decodes alone. Decoding is whole-number arithmetic and one product per value, the same on every machine. Knows no file.
"""

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmsys.compress.bit_codes import read_numbers, unzigzag, write_numbers, zigzag
from llmsys.compress.errors import BadBitstream
from llmsys.compress.frequency_tables import MIDDLE, read_mirrored
from llmsys.compress.number_formats import F32, Words, to_words
from llmsys.compress.rans import Grid, decode, slot_tables
from llmsys.compress.records import Chunk, TensorEntry
from llmsys.compress.trellis import ESCAPE, MACHINES, Machine
from llmsys.gpu.compiled import compiled

__all__ = ["CHUNK_HEAD", "CLASSES", "POINTS", "STRANGE", "Shared", "decode_tq", "reconstruct", "write_shared"]

CLASSES = 16
POINTS = 8
SIDE_HEAD = struct.Struct("<BBHdf")
CHUNK_HEAD = struct.Struct("<III")
STRANGE = np.dtype([("at", "<u4"), ("value", "<f4")])

I16 = NDArray[np.int16]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
U16 = NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class Shared:
    """What every chunk of a tensor needs: machine, step, centre, columns' classes, tables, points of reconstruction.

    `points` [POINTS] is how far the value of level 1, 2, … lies above it, in 256ths of a step.
    """

    machine: Machine
    step: float
    centre: float
    column_class: I16
    frequencies: U16
    points: NDArray[np.int8]

    def grid(self, line_class: I16, values: int) -> Grid:
        """How the values of some lines lie."""
        return Grid(values, len(self.column_class), line_class, self.column_class, CLASSES)


def write_shared(shared: Shared, tables: bytes) -> bytes:
    """The shared part as bytes; `tables` are the frequencies as `frequency_tables` writes them."""
    columns = write_numbers(zigzag(shared.column_class.astype(np.int64) - CLASSES // 2), 0)
    head = SIDE_HEAD.pack(shared.machine.states, POINTS, len(columns), shared.step, shared.centre)
    return head + shared.points.tobytes() + columns + tables


def _read_shared(side: bytes, width: int, where: str) -> Shared:
    right = "what encode wrote"
    if len(side) < SIDE_HEAD.size + POINTS:
        raise BadBitstream(where, f"a shared part of {len(side)} bytes", right)
    states, points, columns_bytes, step, centre = SIDE_HEAD.unpack_from(side)
    machine = MACHINES.get(0 if states == 1 else states)
    if machine is None or points != POINTS or not np.isfinite(step) or not np.isfinite(centre):
        raise BadBitstream(where, f"a trellis of {states} states, step {step}", right)
    rest = side[SIDE_HEAD.size + POINTS :]
    codes = read_numbers(rest[:columns_bytes], width, 0)
    frequencies = read_mirrored(rest[columns_bytes:], CLASSES * machine.count)
    if codes is None or frequencies is None:
        raise BadBitstream(where, "classes or tables that do not decode", right)
    column_class = np.clip(unzigzag(codes) + CLASSES // 2, -CLASSES, 2 * CLASSES).astype(np.int16)
    offsets = np.frombuffer(side, np.int8, POINTS, SIDE_HEAD.size)
    return Shared(machine, step, centre, column_class, frequencies, offsets)


def decode_tq(entry: TensorEntry, side: bytes, payload: bytes, chunk: Chunk, where: str) -> Words:
    """Words of a chunk, rounded to the tensor's number format."""
    shared = _read_shared(side, entry.width, where)
    values = entry.chunk_values(chunk)
    if len(payload) < CHUNK_HEAD.size:
        raise BadBitstream(where, f"{len(payload)} bytes", f"at least {CHUNK_HEAD.size}")
    strange_count, line_bytes, escape_bytes = CHUNK_HEAD.unpack_from(payload)
    strange_end = CHUNK_HEAD.size + strange_count * STRANGE.itemsize
    lines_end = strange_end + line_bytes
    words_start = lines_end + escape_bytes
    if words_start > len(payload) or (len(payload) - words_start) % 2:
        raise BadBitstream(where, f"parts of {words_start} bytes in {len(payload)}", "parts that fit")
    codes = read_numbers(payload[strange_end:lines_end], chunk.lines, 0)
    words = np.frombuffer(payload, "<u2", offset=words_start)
    levels = None
    if codes is not None:
        line_class = np.clip(unzigzag(codes), -CLASSES, CLASSES).astype(np.int16)
        grid = shared.grid(line_class, values)
        machine = shared.machine
        tables = slot_tables(shared.frequencies)
        levels = decode(words, grid, tables, machine.transitions, machine.quantisers, middle=MIDDLE)
    wide = None if levels is None else _escaped(levels, payload[lines_end:words_start], shared.machine)
    if wide is None:
        raise BadBitstream(where, "a stream that does not decode", "what encode wrote")
    result = reconstruct(wide, shared)
    strange = np.frombuffer(payload, STRANGE, strange_count, CHUNK_HEAD.size)
    if strange_count and int(strange["at"].max()) >= values:
        raise BadBitstream(where, "an exact value outside of the chunk", f"places below {values}")
    result[strange["at"]] = strange["value"]
    return to_words(result, entry.format)


def _escaped(levels: I16, escapes: bytes, machine: Machine) -> I32 | I64 | None:
    """Levels with the rest of every escape added; None where the side string ends early."""
    least = machine.count * ESCAPE - (machine.count - 1)
    places = np.flatnonzero(np.abs(levels) >= least)
    if not len(places):
        return levels.astype(np.int32)
    rest = read_numbers(escapes, len(places), 0)
    if rest is None or int(rest.max()) > 1 << 40:
        return None
    wide = levels.astype(np.int64)
    wide[places] += np.sign(wide[places]) * 2 * machine.count * rest
    return wide


def reconstruct(levels: I32 | I64, shared: Shared) -> F32:
    """float32 values [n] of levels [n]: level · step, moved by the level's point, plus the centre."""
    table = np.arange(-255, 256, dtype=np.float64)
    near = np.arange(1, POINTS + 1)
    moved = shared.points.astype(np.float64) / 256
    table[255 + near] += moved
    table[255 - near] -= moved
    with np.errstate(over="ignore"):
        near_values = (table * shared.step + shared.centre).astype(np.float32)
    result = np.empty(len(levels), np.float32)
    _place(levels, near_values, shared.step, shared.centre, result)
    return result


@compiled
def _place(levels: I32 | I64, near_values: F32, step: float, centre: float, result: F32) -> None:
    for i in range(len(levels)):
        level = levels[i]
        if -256 < level < 256:
            result[i] = near_values[level + 255]
        else:
            result[i] = level * step + centre
