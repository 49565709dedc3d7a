"""Framed records: arrays of a pipe come back, runs of rows join, and a stream that is cut or changed is refused."""

import io

import numpy as np
import pytest

from llmsys.compress.decoding import decode_stream
from llmsys.compress.encoding import Goal
from llmsys.compress.errors import BadBitstream, TargetUnreachable
from llmsys.compress.frames import MAGIC, read_frames
from llmsys.compress.planning import Selection
from llmsys.compress.streaming import encode_stream
from llmsys.errors import BadInput

MEMORY = 1 << 28


def npy(*arrays):
    stream = io.BytesIO()
    for array in arrays:
        np.save(stream, array)
    return stream.getvalue()


def through(data, *, bits=4.0, memory=MEMORY, codec="tq", nmse=None):
    """Frames of .npy bytes, and the lines that were told."""
    out = io.BytesIO()
    selection = Selection(codec, is_model=False)
    goal = Goal(memory=memory, trellis=0, nmse=nmse)
    lines = list(encode_stream(io.BytesIO(data), "in", out, selection, goal, bits=bits))
    return out.getvalue(), lines


def back(frames, *, memory=MEMORY):
    out = io.BytesIO()
    count = decode_stream(io.BytesIO(frames), "in", out, memory=memory)
    out.seek(0)
    return [np.load(out) for _ in range(count)]


def test_arrays_of_every_kind_come_back_in_order(k_proj):
    arrays = [
        k_proj,
        np.arange(24).reshape(2, 3, 4),
        np.float32(3.5),
        np.zeros((0, 7), np.float32),
        np.full(9000, 2.0),
        np.array([True, False]),
    ]
    frames, lines = through(npy(*arrays))
    found = back(frames)

    assert [line.codec for line in lines] == ["tq", "raw", "raw", "raw", "constant", "raw"]
    assert [(a.dtype, a.shape) for a in found] == [(a.dtype, a.shape) for a in map(np.asarray, arrays)]
    for before, after in zip(arrays[1:], found[1:], strict=True):
        assert np.array_equal(before, after)
    assert np.abs(found[0].astype(float) - k_proj).mean() < 0.1 * k_proj.std()


def test_the_rate_counts_every_byte_of_the_stream(k_proj):
    frames, lines = through(npy(k_proj), bits=3.0)

    assert len(frames) == lines[0].bytes
    assert 2.98 <= 8 * len(frames) / k_proj.size <= 3.0


def test_an_array_over_the_memory_s_share_goes_as_runs_of_rows_and_comes_back_whole(k_proj):
    big = np.tile(k_proj.astype(np.float32), (6, 1))
    frames, lines = through(npy(big, k_proj), memory=32 << 20, codec="lossless")
    found = back(frames)

    assert [line.tensor for line in lines] == ["array.0", "array.0", "array.0", "array.1"]
    assert [np.array_equal(*pair) for pair in zip(found, (big, k_proj), strict=True)] == [True, True]


def test_a_run_that_is_missing_or_doubled_is_refused(k_proj):
    big = np.tile(k_proj.astype(np.float32), (6, 1))
    frames, _ = through(npy(big), memory=32 << 20, codec="lossless")
    ends = [frame.end for frame in read_frames(io.BytesIO(frames), "in", memory=MEMORY)]
    first, second = frames[: ends[0]], frames[ends[0] : ends[1]]

    for broken in (first + first, frames[: ends[1]], second, frames[ends[0] :]):
        with pytest.raises(BadBitstream, match=r"rows from|rows early"):
            back(broken)


def test_every_cut_and_every_changed_byte_is_refused(k_proj):
    frames, _ = through(npy(k_proj[:8, :520], k_proj[:8, :520]))
    for at in range(1, len(frames), 11):
        if at == len(frames) // 2:
            continue
        damaged = bytearray(frames)
        damaged[at] ^= 16
        with pytest.raises(BadBitstream, match="in: frame"):
            back(bytes(damaged))
        if frames[at : at + 8] != MAGIC:
            with pytest.raises(BadBitstream, match="in: frame"):
                back(frames[:at])


def test_a_length_over_the_memory_is_refused_before_it_is_read():
    claim = MAGIC + (10).to_bytes(4, "little") + (1 << 62).to_bytes(8, "little") + b"x" * 100

    with pytest.raises(BadBitstream, match="at most --memory"):
        back(claim)


def test_a_shape_over_the_memory_is_refused(k_proj):
    frames, _ = through(npy(np.ones((3000, 3000), np.float32)), memory=1 << 32)

    assert len(frames) < 400
    with pytest.raises(BadBitstream, match=r"shape \(3000, 3000\)"):
        back(frames, memory=1 << 20)


def test_what_is_no_npy_is_refused():
    with pytest.raises(BadInput, match=r"in: array at offset 0: starts with b'hello'"):
        through(b"hello")


def test_a_rate_out_of_range_is_refused_with_the_range(k_proj):
    for bits in (0.01, 9.0):
        with pytest.raises(TargetUnreachable, match=r"reachable: 0.1 to 8.0"):
            through(npy(k_proj), bits=bits)


def test_an_error_is_met_for_each_array(k_proj):
    _, lines = through(npy(k_proj, 2 * k_proj), bits=None, nmse=0.01)

    assert [0.0099 <= line.nmse <= 0.01 for line in lines] == [True, True]
