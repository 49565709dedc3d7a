"""Tensors through video encoders (LLM.265, §4): an affine map to samples, one intra-only frame per chunk.

Values further than 8 deviations from the mean are kept exactly beside the stream, so that outliers do not stretch the
map. A fractional rate is met by an integer quality and a map scaled below it by 2^(f/6), which is a fractional quality.
Knows no encoder's options; those are `video_engines`'.
"""

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from llmsys.compress.coded import Coded, Numbers, Target, chunk_map, pack
from llmsys.compress.errors import BadBitstream, TargetUnreachable
from llmsys.compress.number_formats import F32, Words, from_words, to_words
from llmsys.compress.rate_search import search_below
from llmsys.compress.records import Chunk, TensorEntry
from llmsys.compress.scale_classes import Scales, finite, measure_scales
from llmsys.compress.tensor_codec import STRANGE
from llmsys.compress.video_engines import (
    ENGINES,
    LARGEST_SIDE,
    Samples,
    VideoEngine,
    decode_frame,
    encode_frame,
)

__all__ = ["DEFAULT_VIDEO", "VIDEO_CODECS", "VideoSettings", "decode_video", "encode_video"]

VIDEO_CODECS = tuple(ENGINES)
SIDE = struct.Struct("<ddB")
HEAD = struct.Struct("<I")
DEVIATIONS = 8.0
SMALLEST_SIDE = 256
FOLDED_WIDTH = 1024


@dataclass(frozen=True, slots=True)
class VideoSettings:
    """Bits of a sample, whether chroma is there (and constant) or not, and the encoder's preset, "" for ours."""

    depth: int = 10
    chroma: str = "420"
    preset: str = ""


DEFAULT_VIDEO = VideoSettings()


@dataclass(frozen=True, slots=True)
class _Map:
    """sample = middle + (value − centre) · samples_per_value, at `depth` bits."""

    centre: float
    scale: float
    depth: int

    def side(self) -> bytes:
        """The map as every chunk needs it."""
        return SIDE.pack(self.centre, self.scale, self.depth)


def encode_video(numbers: Numbers, target: Target, codec: str, settings: VideoSettings, *, jobs: int = 1) -> Coded:
    """Code a float tensor through the engine `codec` to bytes, an error or a quality.

    Raises EngineMissing, TargetUnreachable with the range, UnsupportedValues for too many infinities and NaNs.
    """
    run = _Run(numbers, ENGINES[codec], settings, jobs)
    if target.quality is not None:
        return run.coded(int(target.quality), 1.0)
    if target.stored_bytes is not None:
        return run.to_bytes(target.stored_bytes, target.slack_bytes)
    if target.nmse is None:
        raise ValueError("a target without bytes, error or quality; expected one of them")
    return run.to_error(target.nmse)


class _Run:
    """One tensor on its way through one engine."""

    def __init__(self, numbers: Numbers, engine: VideoEngine, settings: VideoSettings, jobs: int) -> None:
        self.numbers, self.engine, self.settings, self.jobs = numbers, engine, settings, jobs
        self.scales: Scales = measure_scales(numbers, jobs=jobs)
        deviation = math.sqrt(self.scales.mean_square)
        half = min(self.scales.largest + 1e-30, DEVIATIONS * deviation + 1e-30)
        middle = 1 << (settings.depth - 1)
        self.map = _Map(self.scales.centre, (middle - 1) / half, settings.depth)

    def coded(self, quality: int, gain: float) -> Coded:
        """Every chunk at a quality, the map scaled by `gain` <= 1; the error is that of decoding."""
        mapped = replace(self.map, scale=self.map.scale * gain)
        layout, numbers = self.numbers.layout, self.numbers

        def payload(first: int, lines: int) -> bytes:
            values = numbers.floats(*layout.span(first, lines))
            samples, strange = _to_samples(values, mapped)
            frame = _framed(samples, layout.width)
            depth, chroma, preset = self.settings.depth, self.settings.chroma, self.settings.preset
            stream = encode_frame(frame, self.engine, quality=quality, depth=depth, chroma=chroma, preset=preset)
            return HEAD.pack(len(strange)) + strange.tobytes() + stream

        payloads = list(chunk_map(payload, layout, self.jobs))
        found = pack(numbers, self.engine.name, mapped.side(), payloads)
        return Coded(msgspec.structs.replace(found.entry, nmse=self._error(found)), found.blobs)

    def to_bytes(self, stored_bytes: int, slack_bytes: int) -> Coded:
        """The coarsest whole quality that is over the rate, then the map scaled down until it is under."""
        kept: dict[float, Coded] = {}
        low, high = self.engine.qualities
        quality = self._coarsest(lambda coded: coded.entry.stored_bytes >= stored_bytes, low, high)

        def measure(x: float) -> float:
            coded = self.coded(quality, 2.0**-x)
            kept[x] = coded
            return 8 * coded.entry.stored_bytes / self.numbers.layout.values

        values = self.numbers.layout.values
        wanted, slack = 8 * stored_bytes / values, 8 * slack_bytes / values
        found = search_below(measure, wanted, 0.05, slack=slack, tries=8)
        if not found.reached:
            raise self._unreachable(wanted, found.y)
        return kept[found.x]

    def to_error(self, nmse: float) -> Coded:
        """The coarsest whole quality within the error, then the map scaled down to the error itself."""
        kept: dict[float, Coded] = {}
        low, high = self.engine.qualities
        quality = self._coarsest(lambda coded: (coded.entry.nmse or 0.0) <= nmse, low, high)

        def measure(x: float) -> float:
            coded = self.coded(quality, min(1.0, 2.0**x))
            kept[x] = coded
            return math.log2(max(coded.entry.nmse or 0.0, 1e-30))

        found = search_below(measure, math.log2(nmse), -0.05, slack=0.0143, slope=-2.0, tries=8)
        if not found.reached:
            raise TargetUnreachable(
                f"{self.numbers.name}: an error of {nmse:g} cannot be had; reachable: {2**found.y:.2g} to 1",
                reachable=(2**found.y, 1.0),
            )
        return kept[found.x]

    def _coarsest(self, good: Callable[[Coded], bool], low: int, high: int) -> int:
        """The largest quality number that `good` accepts, by bisection; `low` where none is."""
        while low < high:
            middle = (low + high + 1) // 2
            if good(self.coded(middle, 1.0)):
                low = middle
            else:
                high = middle - 1
        return low

    def _unreachable(self, wanted: float, least: float) -> TargetUnreachable:
        message = f"{self.numbers.name}: {wanted:.3f} bits per value cannot be had by {self.engine.name}"
        return TargetUnreachable(f"{message}; reachable: {least:.3f} and more", reachable=(least, 8.0))

    def _error(self, coded: Coded) -> float:
        total = 0.0
        for chunk, payload in zip(coded.entry.chunks, coded.blobs[1:], strict=True):
            words = decode_video(coded.entry, coded.blobs[0], payload, chunk, self.numbers.name)
            start = chunk.first_line * coded.entry.width
            values = finite(self.numbers.floats(start, start + len(words))).astype(np.float64)
            total += float(((values - finite(from_words(words, coded.entry.format))) ** 2).sum())
        return total / self.numbers.layout.values / self.scales.variance if self.scales.variance else 0.0


def decode_video(entry: TensorEntry, side: bytes, payload: bytes, chunk: Chunk, where: str) -> Words:
    """Words of a chunk. Raises BadBitstream for a stream that decodes to anything but its frame."""
    values = entry.chunk_values(chunk)
    if len(side) != SIDE.size or len(payload) < HEAD.size:
        raise BadBitstream(where, f"parts of {len(side)} and {len(payload)} bytes", "a map and a stream")
    mapped = _Map(*SIDE.unpack(side))
    (count,) = HEAD.unpack_from(payload)
    end = HEAD.size + count * STRANGE.itemsize
    usable = np.isfinite(mapped.centre) and np.isfinite(mapped.scale) and mapped.scale > 0
    if end > len(payload) or not usable or mapped.depth not in (8, 10, 12):
        raise BadBitstream(where, "a map or exact values that do not fit", "what encode wrote")
    height, width = _frame_shape(values, entry.width)
    padded = (_side(height), _side(width))
    samples = decode_frame(payload[end:], ENGINES[entry.codec].decoder, padded, mapped.depth, where)
    flat = samples[:height, :width].reshape(-1)[:values].astype(np.float64)
    with np.errstate(over="ignore"):
        result = ((flat - (1 << (mapped.depth - 1))) / mapped.scale + mapped.centre).astype(np.float32)
    strange = np.frombuffer(payload, STRANGE, count, HEAD.size)
    if count and int(strange["at"].max()) >= values:
        raise BadBitstream(where, "an exact value outside of the chunk", f"places below {values}")
    result[strange["at"]] = strange["value"]
    return to_words(result, entry.format)


def _to_samples(values: F32, mapped: _Map) -> tuple[Samples, NDArray[np.void]]:
    """Samples [n], and the values that no sample holds with their places."""
    middle = 1 << (mapped.depth - 1)
    exact = middle + (finite(values).astype(np.float64) - mapped.centre) * mapped.scale
    outside = np.flatnonzero((exact < -0.5) | (exact > 2 * middle - 0.5) | ~np.isfinite(values))
    strange = np.zeros(len(outside), STRANGE)
    strange["at"], strange["value"] = outside, values[outside]
    exact[outside] = middle
    return np.clip(np.round(exact), 0, 2 * middle - 1).astype(np.uint16), strange


def _frame_shape(values: int, width: int) -> tuple[int, int]:
    """Lines as rows of a frame, or folded where they are too many or too wide for one."""
    lines = -(-values // width)
    if width <= LARGEST_SIDE and lines <= LARGEST_SIDE:
        return lines, width
    return -(-values // FOLDED_WIDTH), FOLDED_WIDTH


def _side(length: int) -> int:
    """A frame's side: a multiple of 8, not too small for any engine."""
    return max(SMALLEST_SIDE, -(-length // 8) * 8)


def _framed(samples: Samples, width: int) -> Samples:
    """Samples [n] as a frame, its edges repeated to a size that engines take."""
    height, across = _frame_shape(len(samples), width)
    whole = np.pad(samples, (0, height * across - len(samples)), mode="edge").reshape(height, across)
    return np.pad(whole, ((0, _side(height) - height), (0, _side(across) - across)), mode="edge")
