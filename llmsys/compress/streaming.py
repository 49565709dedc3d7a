"""Encode .npy arrays that come on a pipe into frames: constant memory, however long the stream and large an array.

An array over RUN_BYTES goes as runs of rows, each coded to the target by itself. Knows no codec.
"""

from collections.abc import Iterator
from typing import BinaryIO

import msgspec

from llmsys.artifacts import NpyRun, read_npy_runs
from llmsys.compress.coded import Coded, in_memory
from llmsys.compress.container import largest_record, record_bytes
from llmsys.compress.encoding import Goal, TensorLine, encode_tensor, line_of
from llmsys.compress.frames import FrameHeader, frame_bytes, write_frame
from llmsys.compress.planning import PlanLine, Selection, check_bits

__all__ = ["RUN_BYTES", "encode_stream"]

RUN_BYTES = 64 << 20


def encode_stream(
    source: BinaryIO, name: str, out: BinaryIO, selection: Selection, goal: Goal, *, bits: float | None
) -> Iterator[TensorLine]:
    """Write a frame for every run of rows, yielding its line; the rate counts all bytes of the frame.

    Arrays are named by their number. Raises BadInput for what is no .npy, CodecErrors that name the array.
    """
    if bits is not None:
        check_bits(bits)
    number = -1
    run_bytes = min(RUN_BYTES, max(1 << 20, goal.memory // 32))
    for run in read_npy_runs(source, name, run_bytes=run_bytes):
        number += run.first_row == 0
        yield _encode_run(run, f"array.{number}", out, selection, goal, bits)
        out.flush()


def _encode_run(
    run: NpyRun, name: str, out: BinaryIO, selection: Selection, goal: Goal, bits: float | None
) -> TensorLine:
    tensor = in_memory(run.rows, name)
    codec = selection.codec_of(tensor)
    parts = None if run.rows.shape == run.whole else run.whole
    header = FrameHeader(name, whole=parts, first_row=run.first_row)
    record = largest_record(tensor, run.rows.nbytes // 4)
    framed = frame_bytes(len(msgspec.json.encode(msgspec.structs.replace(header, entry=record))), 0)
    bare = framed - record_bytes(name, record)
    line = PlanLine(name, codec, None if codec in ("raw", "lossless") else bits)
    coded: Coded = encode_tensor(tensor, line, goal, overhead=bare, jobs=goal.jobs)
    written = write_frame(out, msgspec.structs.replace(header, entry=coded.entry), coded)
    told = line_of(name, coded.entry)
    return msgspec.structs.replace(told, bytes=written, bits=8 * written / max(1, tensor.layout.values))
