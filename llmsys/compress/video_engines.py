"""Video encoders and decoders through PyAV: one intra-only frame of samples in, one bitstream out, and back.

Everything made for human eyes (psycho-visual tuning, deblocking, SAO, adaptive quantisation) is off, as are threads,
version strings and timestamps, so that the same frame gives the same bytes. The NVENC encoders stand on FFmpeg's
documented options and have never been run: no machine with one was there. Knows no tensor.
"""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmsys.compress.errors import BadBitstream, EngineMissing

__all__ = ["ENGINES", "VideoEngine", "decode_frame", "encode_frame", "engine_named"]

Samples = NDArray[np.uint16]
LARGEST_SIDE = 4096
"""The largest frame that H.264 decoders in silicon take; HEVC and AV1 take 8192."""
START_CODE = re.compile(rb"\x00\x00\x00?\x01")
SEI = 6


@dataclass(frozen=True, slots=True)
class VideoEngine:
    """An encoder by our name: FFmpeg's encoder and decoder, quality range (0 is finest), depths, settings of a quality.

    `monochrome` says whether it takes frames without chroma; `semiplanar` that its samples come as NV12 or P010.
    """

    name: str
    encoder: str
    decoder: str
    qualities: tuple[int, int]
    depths: tuple[int, ...]
    options: Callable[[int, str], dict[str, str]]
    monochrome: bool = False
    semiplanar: bool = False


def _x265(quality: int, preset: str) -> dict[str, str]:
    params = (
        f"qp={quality}:ipratio=1:keyint=1:psy-rd=0:psy-rdoq=0:no-sao=1:no-deblock=1:no-strong-intra-smoothing=1:"
        "rdoq-level=2:aq-mode=0:ctu=32:info=0:pools=none:frame-threads=1:log-level=none"
    )
    return {"preset": preset or "medium", "x265-params": params}


def _x264(quality: int, preset: str) -> dict[str, str]:
    params = f"qp={quality}:ipratio=1:keyint=1:no-psy=1:no-deblock=1:aq-mode=0:8x8dct=1:threads=1:log-level=-1"
    return {"preset": preset or "medium", "x264-params": params}


def _svtav1(quality: int, preset: str) -> dict[str, str]:
    return {"preset": preset or "6", "svtav1-params": f"rc=0:aq-mode=0:qp={quality}:keyint=1:lp=1"}


def _nvenc(quality: int, preset: str) -> dict[str, str]:
    return {"preset": preset or "p7", "tune": "hq", "rc": "constqp", "qp": str(quality), "g": "1", "spatial-aq": "0"}


ENGINES = {
    engine.name: engine
    for engine in (
        VideoEngine("x265", "libx265", "hevc", (0, 51), (8, 10, 12), _x265, monochrome=True),
        VideoEngine("x264", "libx264", "h264", (1, 51), (8, 10), _x264, monochrome=True),
        VideoEngine("svtav1", "libsvtav1", "libdav1d", (1, 63), (8, 10), _svtav1),
        VideoEngine("hevc_nvenc", "hevc_nvenc", "hevc", (0, 51), (8, 10), _nvenc, semiplanar=True),
        VideoEngine("h264_nvenc", "h264_nvenc", "h264", (0, 51), (8,), _nvenc, semiplanar=True),
        VideoEngine("av1_nvenc", "av1_nvenc", "libdav1d", (0, 255), (8, 10), _nvenc, semiplanar=True),
    )
}


def engine_named(name: str) -> VideoEngine:
    """The engine, if it works here: one frame is encoded and decoded. Raises EngineMissing with those that do."""
    from llmsys.gpu import ENGINES as PROBED
    from llmsys.gpu import probe_engines

    engine = ENGINES[name]
    wanted = [one for one in PROBED if one.name in (engine.encoder, engine.decoder)]
    if all(verdict.works for verdict in probe_engines(wanted)):
        return engine
    verdicts = probe_engines([one for one in PROBED if one.role == "encode"])
    present = [one.engine.name for one in verdicts if one.works]
    raise EngineMissing(f"video engine {name} does not work here", f"those that do: {', '.join(present) or 'none'}")


def encode_frame(samples: Samples, engine: VideoEngine, *, quality: int, depth: int, chroma: str, preset: str) -> bytes:
    """One frame [height, width] of samples below 2^depth as a bitstream that decodes alone.

    Raises EngineMissing for an encoder that does not open or gives nothing.
    """
    import av

    os.environ.setdefault("SVT_LOG", "0")  # the library writes to stderr by itself
    height, width = samples.shape
    try:
        context: Any = av.CodecContext.create(engine.encoder, "w")
        context.width, context.height = width, height
        context.pix_fmt = _pixel_format(engine, depth, chroma)
        context.time_base = Fraction(1, 25)
        context.options = engine.options(quality, preset)
        context.thread_count = 1
        frame = _filled(av, samples, str(context.pix_fmt), depth)
        packets = [bytes(packet) for packet in [*context.encode(frame), *context.encode(None)]]
    except (av.FFmpegError, ValueError) as error:
        remedy = "`llmsys compress engines` says which work"
        raise EngineMissing(f"video engine {engine.name} failed ({error})", remedy) from error
    stream = b"".join(packets)
    return _without_sei(stream) if engine.decoder == "h264" else stream


def decode_frame(data: bytes, decoder: str, shape: tuple[int, int], depth: int, where: str) -> Samples:
    """The luma samples [height, width] of a bitstream of one frame.

    Raises BadBitstream for a stream that does not decode, or to another number, size or depth of frames.
    """
    import av

    height, width = shape
    frames: list[Any] = []
    try:
        context: Any = av.CodecContext.create(decoder, "r")
        context.thread_count = 1
        context.options = {"max_pixels": str(4 * LARGEST_SIDE * LARGEST_SIDE)}
        for packet in (av.Packet(data), None):
            frames += context.decode(packet)
    except (av.FFmpegError, ValueError) as error:
        raise BadBitstream(where, f"a video stream that does not decode ({error})", "what encode wrote") from error
    sizes = [(frame.height, frame.width) for frame in frames]
    if sizes != [shape]:
        raise BadBitstream(where, f"frames of sizes {sizes}", f"one of {shape}")
    frame = frames[0]
    if frame.format.components[0].bits != depth:
        raise BadBitstream(where, f"samples of {frame.format.components[0].bits} bits", f"{depth} bits")
    word = np.uint8 if depth == 8 else np.dtype("<u2")
    plane = frame.planes[0]
    rows = np.frombuffer(plane, word).reshape(-1, plane.line_size // np.dtype(word).itemsize)
    return rows[:height, :width].astype(np.uint16)


def _pixel_format(engine: VideoEngine, depth: int, chroma: str) -> str:
    if engine.semiplanar:
        return "nv12" if depth == 8 else "p010le"
    base = "gray" if chroma == "gray" else "yuv420p"
    return base if depth == 8 else f"{base}{depth}le"


def _filled(av: Any, samples: Samples, pixel_format: str, depth: int) -> Any:  # noqa: ANN401
    """A frame with the samples as luma and every chroma sample in the middle."""
    height, width = samples.shape
    frame = av.VideoFrame(width, height, pixel_format)
    word = np.dtype(np.uint8 if depth == 8 else "<u2")
    shift = 6 if pixel_format == "p010le" else 0
    for number, plane in enumerate(frame.planes):
        rows = np.full((plane.buffer_size // plane.line_size, plane.line_size // word.itemsize), 1 << (depth - 1), word)
        if number == 0:
            rows[:height, :width] = samples
        plane.update((rows << shift).astype(word).tobytes())
    return frame


def _without_sei(stream: bytes) -> bytes:
    """An H.264 stream without its supplemental information: x264 puts its version and settings there, 600 bytes."""
    starts = [match.start() for match in START_CODE.finditer(stream)] + [len(stream)]
    units = [stream[first:after] for first, after in pairwise(starts)]
    return b"".join(unit for unit in units if unit[START_CODE.match(unit).end()] & 31 != SEI)  # type: ignore[union-attr]
