"""The codecs that `tq` is measured beside, each as one function: a float32 matrix and a rate in, a trial out.

Packages are asked for when they are used; one that is missing raises Unavailable, which `bench` names and skips. Every
peer's rate counts what it stores: codes, scales, zero points. Peers with whole levels come as near as they can.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmsys.compress.codecs import decode_all
from llmsys.compress.coded import Target, in_memory
from llmsys.compress.number_formats import FORMATS, from_words, to_words
from llmsys.compress.sweeping import gap_db
from llmsys.compress.tensor_encoder import encode_tq
from llmsys.compress.video import VideoSettings, encode_video
from llmsys.errors import Unavailable

__all__ = ["FIXED_RATE", "PEERS", "QP_DENSITY", "Peer", "Trial", "bfloat16", "needed"]

F32 = NDArray[np.float32]
NEGATIVE = (-1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500)
POSITIVE = (0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1.0)
NF4 = np.array([*NEGATIVE, 0.0, *POSITIVE])
QP_DENSITY = 4
LAMBDAS = (0.0, 0.02, 0.06)
"""Weights of the rate in NNC's trellis that are tried; the one of the least gap counts."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One matrix through one peer: decoded values, bits of a value, seconds of encoding and of decoding."""

    values: F32
    bits: float
    encode_s: float
    decode_s: float


Peer = Callable[[F32, float], Trial]


def needed(module: str, package: str) -> Any:  # noqa: ANN401
    """An optional package. Raises Unavailable that says how to get it."""
    try:
        return import_module(module)
    except ImportError as error:
        raise Unavailable(f"peer {package} is not installed", f"pip install --no-deps {package}") from error


def tq(matrix: F32, bits: float, *, trellis: int) -> Trial:
    """This package's codec; its rate counts the stream and the record."""
    size = int(bits * matrix.size / 8) - 300
    target = Target(stored_bytes=size, slack_bytes=int(0.003 * matrix.size / 8))
    return _ours(lambda: encode_tq(in_memory(matrix), target, trellis=trellis), matrix)


def video(matrix: F32, bits: float, *, codec: str) -> Trial:
    """A video engine with the settings of `video_engines`, 10 bits, one map for the tensor."""
    size = int(bits * matrix.size / 8)
    target = Target(stored_bytes=size, slack_bytes=int(0.01 * matrix.size / 8))
    return _ours(lambda: encode_video(in_memory(matrix), target, codec, VideoSettings()), matrix)


def _ours(encode: Callable[[], Any], matrix: F32) -> Trial:
    started = time.perf_counter()
    coded = encode()
    encoded = time.perf_counter()
    words = decode_all(coded.entry, coded.data, "bench")
    ended = time.perf_counter()
    values = from_words(words, coded.entry.format).reshape(matrix.shape)
    return Trial(values, 8 * coded.entry.stored_bytes / matrix.size, encoded - started, ended - encoded)


def nnc(matrix: F32, bits: float) -> Trial:
    """ISO/IEC 15938-17 with dependent quantisation, by nncodec's own coder, at its best weight of the rate."""
    cabac = needed("nncodec.extensions.deepCABAC", "nncodec")
    found = [_nnc_at_rate(cabac, matrix, bits, weight) for weight in LAMBDAS]
    variance = float(matrix.var())

    def gap(trial: Trial) -> float:
        error = float(((trial.values - matrix).astype(np.float64) ** 2).mean())
        return gap_db(error / variance, trial.bits)

    return min(found, key=gap)


def _nnc_at_rate(cabac: Any, matrix: F32, bits: float, weight: float) -> Trial:  # noqa: ANN401
    """The whole quality whose rate is nearest; 16 of them double the step."""
    qp = round(16 * np.log2(2.2 * float(matrix.std()) * 2.0**-bits))
    trial = _nnc_once(cabac, matrix, qp, weight)
    for _ in range(3):
        move = round(16 * (trial.bits - bits))
        if move == 0:
            break
        qp += move
        trial = _nnc_once(cabac, matrix, qp, weight)
    return trial


def _nnc_once(cabac: Any, matrix: F32, qp: int, weight: float) -> Trial:  # noqa: ANN401
    started = time.perf_counter()
    levels = np.zeros(matrix.shape, np.int32)
    encoder = cabac.Encoder()
    encoder.initCtxModels(10, 0)
    qp = encoder.quantLayer(matrix, levels, 1, QP_DENSITY, qp, weight, 10, 0, 0)
    encoder = cabac.Encoder()
    encoder.initCtxModels(10, 0)
    off = (cabac.HdspMode(0), np.zeros(0, np.int8))
    encoder.encodeLayer(levels, 1, 0, 0, 0, 0, np.zeros(len(matrix), np.int32), *off, 0, 0)
    stream = bytes(encoder.finish())
    encoded = time.perf_counter()
    decoder = cabac.Decoder()
    decoder.setStream(np.frombuffer(stream, np.uint8))
    decoder.initCtxModels(10)
    back = np.zeros(matrix.shape, np.int32)
    decoder.decodeLayer(back, 1, 0, 0, 0, *off, 0, 0)
    values = np.zeros(matrix.shape, np.float32)
    decoder.dequantLayer(values, back, QP_DENSITY, qp, 0)
    ended = time.perf_counter()
    return Trial(values, 8 * len(stream) / matrix.size, encoded - started, ended - encoded)


def rtn(matrix: F32, bits: float, *, group: int) -> Trial:
    """Round to nearest, asymmetric, per group along the rows: a float16 step and a zero point of as many bits."""
    levels = int(bits)
    started = time.perf_counter()
    groups = matrix.reshape(-1, group)
    low, high = np.minimum(groups.min(1, keepdims=True), 0), np.maximum(groups.max(1, keepdims=True), 0)
    step = np.maximum((high - low) / (2**levels - 1), 1e-8).astype(np.float16).astype(np.float32)
    zero = np.round(-low / step)
    codes = np.clip(np.round(groups / step) + zero, 0, 2**levels - 1)
    encoded = time.perf_counter()
    values = ((codes - zero) * step).reshape(matrix.shape)
    return Trial(values, levels + (16 + levels) / group, encoded - started, time.perf_counter() - encoded)


def nf4(matrix: F32, bits: float) -> Trial:
    """The 4-bit normal float of QLoRA on groups of 64, with a float16 scale; one rate, whatever is asked."""
    started = time.perf_counter()
    groups = matrix.reshape(-1, 64)
    scale = np.abs(groups).max(1, keepdims=True).astype(np.float16).astype(np.float32)
    codes = np.abs((groups / np.maximum(scale, 1e-8))[..., None] - NF4).argmin(-1)
    encoded = time.perf_counter()
    values = (NF4[codes] * scale).astype(np.float32).reshape(matrix.shape)
    return Trial(values, 4 + 16 / 64, encoded - started, time.perf_counter() - encoded)


def ggml(matrix: F32, bits: float, *, kind: str) -> Trial:
    """A block format of llama.cpp as the package gguf writes it; one rate, whatever is asked."""
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize, quantize

    started = time.perf_counter()
    packed = quantize(matrix, GGMLQuantizationType[kind])
    encoded = time.perf_counter()
    values = np.asarray(dequantize(packed, GGMLQuantizationType[kind]), np.float32).reshape(matrix.shape)
    return Trial(values, 8 * packed.nbytes / matrix.size, encoded - started, time.perf_counter() - encoded)


def hqq(matrix: F32, bits: float) -> Trial:
    """Half-quadratic quantisation on groups of 64 with float16 scale and zero, by its package on the CPU."""
    import torch

    quantizer = needed("hqq.core.quantize", "hqq").Quantizer
    started = time.perf_counter()
    settings = {"nbits": int(bits), "group_size": 64, "axis": 1, "device": "cpu", "compute_dtype": torch.float32}
    codes, meta = quantizer.quantize(torch.from_numpy(matrix.copy()), bitpack=False, **settings)
    encoded = time.perf_counter()
    values = ((codes.float() - meta["zero"].float()) * meta["scale"].float()).reshape(matrix.shape).numpy()
    return Trial(values, int(bits) + 32 / 64, encoded - started, time.perf_counter() - encoded)


def zfp(matrix: F32, bits: float) -> Trial:
    """zfp at a fixed rate."""
    zfpy = needed("zfpy", "zfpy")
    started = time.perf_counter()
    packed = zfpy.compress_numpy(matrix, rate=bits)
    encoded = time.perf_counter()
    values = zfpy.decompress_numpy(packed)
    return Trial(values, 8 * len(packed) / matrix.size, encoded - started, time.perf_counter() - encoded)


def sz3(matrix: F32, bits: float) -> Trial:
    """SZ3 at the absolute error bound whose rate is nearest from a search of eight."""
    package = needed("pysz", "pysz")
    bound = float(matrix.std()) * 2.0 ** (1 - bits)
    trial = None
    for _ in range(8):
        config = package.szConfig()
        config.errorBoundMode = package.szErrorBoundMode.ABS
        config.absErrorBound = bound
        started = time.perf_counter()
        packed, _ratio = package.sz.compress(np.ascontiguousarray(matrix), config)
        encoded = time.perf_counter()
        values, _config = package.sz.decompress(packed, matrix.dtype, matrix.shape)
        rate = 8 * len(packed) / matrix.size
        trial = Trial(np.asarray(values, np.float32), rate, encoded - started, time.perf_counter() - encoded)
        bound *= 2.0 ** (rate - bits)
    assert trial is not None
    return trial


def bfloat16(matrix: F32) -> NDArray[Any]:
    """The words of a matrix in bfloat16: what lossless codecs and speeds are measured on."""
    return to_words(matrix.reshape(-1), FORMATS["bf16"])


def _peer(function: Callable[..., Trial], **settings: Any) -> Peer:  # noqa: ANN401
    return lambda matrix, bits: function(matrix, bits, **settings)


PEERS: dict[str, Peer] = {
    "tq trellis 8": _peer(tq, trellis=8),
    "tq trellis 4": _peer(tq, trellis=4),
    "tq trellis 0": _peer(tq, trellis=0),
    "nnc dq": nnc,
    "svtav1": _peer(video, codec="svtav1"),
    "x265": _peer(video, codec="x265"),
    "x264": _peer(video, codec="x264"),
    "rtn g64": _peer(rtn, group=64),
    "rtn g128": _peer(rtn, group=128),
    "hqq g64": hqq,
    "nf4 g64": nf4,
    "mxfp4": _peer(ggml, kind="MXFP4"),
    "q4_0": _peer(ggml, kind="Q4_0"),
    "zfp": zfp,
    "sz3": sz3,
}
FIXED_RATE = ("nf4 g64", "mxfp4", "q4_0")
