"""Speed and lossless size beside the peers, on one thread: MB/s of 16-bit input bytes, the best of three runs.

`tq` and the video engines run at a fixed step or quality near 3 bits, without the search of a rate, as NNC does. Speeds
of one process on a shared machine are worth their ratios only.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from llmsys.compress.bench_peers import QP_DENSITY, bfloat16, needed
from llmsys.compress.bench_workloads import matrices
from llmsys.compress.codecs import decode_all
from llmsys.compress.coded import Coded, Numbers, Target, in_memory
from llmsys.compress.exact import encode_lossless
from llmsys.compress.number_formats import FORMATS, Words, of_array
from llmsys.compress.tensor_encoder import encode_tq
from llmsys.compress.video import VideoSettings, encode_video
from llmsys.errors import Unavailable

__all__ = ["SpeedRow", "lossless_rows", "speed_rows"]

RUNS = 3
QUALITIES = {"svtav1": 22, "x265": 20, "x264": 20}

F32 = NDArray[np.float32]


class SpeedRow(msgspec.Struct, frozen=True):
    """One codec on the workload: bits of a value, MB/s in and out; `ratio` is coded over original bytes."""

    workload: str
    method: str
    bits: float
    ratio: float
    encode_mb_s: float
    decode_mb_s: float


def speed_rows(model: str, *, megabytes: float) -> Iterator[SpeedRow | str]:
    """Lossy codecs near 3 bits on so many MB of real weights as bfloat16, as one matrix."""
    matrix = _joined(model, megabytes)
    deviation = float(matrix.std())
    numbers = in_memory(matrix)
    for trellis, step in ((8, 0.285), (4, 0.285), (0, 0.52)):

        def encode(trellis: int = trellis, step: float = step) -> Coded:
            return encode_tq(numbers, Target(step=step * deviation), trellis=trellis)

        yield _measured("weights", f"tq trellis {trellis}", matrix.size, encode, _decode, size=_size)
    for codec, quality in QUALITIES.items():

        def film(codec: str = codec, quality: int = quality) -> Coded:
            return encode_video(numbers, Target(quality=quality), codec, VideoSettings())

        yield _measured("weights", codec, matrix.size, film, _decode, size=_size)
    yield from _peer(partial(_nnc, matrix))


def lossless_rows(model: str, *, megabytes: float) -> Iterator[SpeedRow | str]:
    """Lossless codecs on so many MB of real weights, as bfloat16 and as float16."""
    matrix = _joined(model, megabytes)
    for name, words in (("bf16", bfloat16(matrix)), ("f16", of_array(matrix.astype(np.float16))[1])):
        yield _lossless(name, matrix.shape, words)
        data = words.tobytes()
        yield from _peer(partial(_zipnn, name, data))
        for level in (3, 19):
            yield _zstd(name, data, level)


def _lossless(name: str, shape: tuple[int, ...], words: Words) -> SpeedRow:
    source = Numbers("weights", shape, FORMATS[name], lambda start, stop: words[start:stop])
    return _measured(name, "lossless", words.size, lambda: encode_lossless(source), _decode, size=_size)


def _joined(model: str, megabytes: float) -> F32:
    """Matrices of one width, one under another, until they come to so many MB of 16-bit values."""
    rows: list[F32] = []
    wanted, width = int(megabytes * 5e5), 0
    for _, matrix in matrices(model, "*"):
        width = width or matrix.shape[1]
        if matrix.shape[1] == width:
            rows.append(matrix)
        if sum(one.size for one in rows) >= wanted:
            break
    return np.concatenate(rows)[: wanted // width]


def _peer(rows: Callable[[], SpeedRow]) -> Iterator[SpeedRow | str]:
    try:
        yield rows()
    except Unavailable as error:
        yield str(error)


def _measured(
    workload: str,
    method: str,
    values: int,
    encode: Callable[[], Any],
    decode: Callable[[Any], object],
    *,
    size: Callable[[Any], int] = len,
) -> SpeedRow:
    """Run both ways RUNS times; the first run of each may compile, the best counts."""
    encode_s, coded = _best(encode)
    decode_s, _ = _best(lambda: decode(coded))
    megabytes = 2 * values / 1e6
    bits = 8 * size(coded) / values
    return SpeedRow(workload, method, bits, bits / 16, megabytes / encode_s, megabytes / decode_s)


def _best(work: Callable[[], Any]) -> tuple[float, Any]:
    best, result = float("inf"), None
    for _ in range(RUNS):
        started = time.perf_counter()
        result = work()
        best = min(best, time.perf_counter() - started)
    return best, result


def _decode(coded: Coded) -> object:
    return decode_all(coded.entry, coded.data, "bench")


def _size(coded: Coded) -> int:
    return coded.entry.stored_bytes


def _nnc(matrix: F32) -> SpeedRow:
    cabac = needed("nncodec.extensions.deepCABAC", "nncodec")
    qp = round(16 * np.log2(2.2 * float(matrix.std()) / 8))
    off = (cabac.HdspMode(0), np.zeros(0, np.int8))

    def encode() -> bytes:
        levels = np.zeros(matrix.shape, np.int32)
        encoder = cabac.Encoder()
        encoder.initCtxModels(10, 0)
        encoder.quantLayer(matrix, levels, 1, QP_DENSITY, qp, 0.0, 10, 0, 0)
        encoder = cabac.Encoder()
        encoder.initCtxModels(10, 0)
        encoder.encodeLayer(levels, 1, 0, 0, 0, 0, np.zeros(len(matrix), np.int32), *off, 0, 0)
        return bytes(encoder.finish())

    def decode(stream: bytes) -> object:
        decoder = cabac.Decoder()
        decoder.setStream(np.frombuffer(stream, np.uint8))
        decoder.initCtxModels(10)
        back, values = np.zeros(matrix.shape, np.int32), np.zeros(matrix.shape, np.float32)
        decoder.decodeLayer(back, 1, 0, 0, 0, *off, 0, 0)
        decoder.dequantLayer(values, back, QP_DENSITY, qp, 0)
        return values

    return _measured("weights", "nnc dq", matrix.size, encode, decode)


def _zipnn(name: str, data: bytes) -> SpeedRow:
    kind = {"bf16": "bfloat16", "f16": "float16"}[name]
    coder = needed("zipnn", "zipnn").ZipNN(bytearray_dtype=kind)
    return _measured(name, "zipnn", len(data) // 2, lambda: coder.compress(data), coder.decompress)


def _zstd(name: str, data: bytes, level: int) -> SpeedRow:
    import zstandard

    coder, decoder = zstandard.ZstdCompressor(level), zstandard.ZstdDecompressor()
    return _measured(name, f"zstd {level}", len(data) // 2, lambda: coder.compress(data), decoder.decompress)
