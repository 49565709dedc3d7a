"""The encoder of `tq`: find the step that meets a target, quantise, make tables, write chunks.

The rate of a step is first fitted on a sample of lines, whose tables then steer the trellis over the whole tensor; one
or two corrections on the whole reach the target. The error that a record states is measured on what decoding gives.
Knows no file; the bytes are `tensor_codec`'s.
"""

import math
from dataclasses import replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from llmsys.compress.coded import Coded, Numbers, Target, chunk_map, pack
from llmsys.compress.errors import TargetUnreachable
from llmsys.compress.frequency_tables import mirrored, steering_bits, symbol_bits, write_mirrored
from llmsys.compress.number_formats import F32, from_words
from llmsys.compress.rate_search import search_below
from llmsys.compress.scale_classes import Scales, finite, measure_scales
from llmsys.compress.tensor_chunks import Pass, chunk_payload, count_symbols, point_gaps, rounded_points
from llmsys.compress.tensor_codec import CLASSES, POINTS, Shared, decode_tq, write_shared
from llmsys.compress.trellis import MACHINES, Machine, Quantised, quantise

__all__ = ["encode_levels", "encode_tq", "sampled_rate"]

SAMPLE_VALUES = 1 << 17
KEPT_VALUES = 1 << 25
RATE_WEIGHT = {0: 0.11, 4: 0.36, 8: 0.38}
"""λ over step², where the gap to the Gaussian bound was least between 2 and 4 bits."""
LARGEST_LEVEL = 1 << 28
FINE_CLASSES_FROM = 1 << 18

I16 = NDArray[np.int16]
I64 = NDArray[np.int64]
F64 = NDArray[np.float64]


class _Encoder:
    """The state of one tensor's encoding: its scales, classes and the tables that steer the trellis."""

    def __init__(self, numbers: Numbers, trellis: int, jobs: int, *, centred: bool = True) -> None:
        self.numbers, self.jobs = numbers, jobs
        self.machine: Machine = MACHINES[trellis]
        self.rate_weight = RATE_WEIGHT[trellis]
        self.layout = numbers.layout
        self.scales: Scales = measure_scales(numbers, jobs=jobs, centred=centred)
        per_octave = 4 if self.layout.values >= FINE_CLASSES_FROM else 2
        self.line_class = np.clip(self.scales.line_class(per_octave), -CLASSES, CLASSES)
        columns = self.scales.column_class(per_octave, self.layout.width)
        self.column_class = (np.clip(columns, -CLASSES, CLASSES) + CLASSES // 2).astype(np.int16)
        self.bits = self._first_bits(per_octave)
        self.deviation = math.sqrt(self.scales.mean_square)
        self.least_step = self.scales.largest / LARGEST_LEVEL

    def _first_bits(self, per_octave: int) -> F64:
        """Costs before anything was counted: a Laplace law of three bits, wider or narrower with the class."""
        width = 2.0 ** ((np.arange(CLASSES) - CLASSES // 2) / per_octave)
        slope = np.repeat(1.2 / width, self.machine.count)
        return np.minimum(30.0, 1.5 + slope[:, None] * np.arange(33)[None, :])

    def first_step(self, bits: float) -> float:
        """The step that a Gaussian tensor would need for so many bits a value."""
        guess: float = 4.0 * self.deviation / self.machine.spacing**0.75 * 2.0**-bits
        return max(self.least_step, guess)

    def _scaled(self, first: int, lines: int, step: float) -> F32:
        values = finite(self.numbers.floats(*self.layout.span(first, lines)))
        return ((values.astype(np.float64) - self.scales.centre) / step).astype(np.float32)

    def _quantised(self, scaled: F32, line_class: I16) -> Quantised:
        grid = self._shared(1.0).grid(line_class, len(scaled))
        return quantise(scaled, grid, self.bits, self.machine, self.rate_weight)

    def _shared(self, step: float) -> Shared:
        none = np.zeros((0, 0), np.uint16)
        return Shared(self.machine, step, self.scales.centre, self.column_class, none, np.zeros(POINTS, np.int8))

    def sample(self) -> tuple[list[int], int]:
        """Lines spread evenly over the tensor that hold SAMPLE_VALUES, and how many there are."""
        wanted = max(1, SAMPLE_VALUES // self.layout.width)
        lines = np.unique(np.linspace(0, self.layout.lines - 1, min(wanted, self.layout.lines)).astype(int))
        return lines.tolist(), len(lines)

    def rate_of(self, counts: I64, escape_bits: int) -> float:
        """Bits of the whole stream with tables made for the counts; sets what the next pass pays per symbol."""
        tables = mirrored(counts)
        seen = counts.sum(1) > 0
        self.bits = np.where(seen[:, None], steering_bits(tables), self.bits)
        return float((counts * symbol_bits(tables)).sum()) + escape_bits

    def run(self, step: float, *, keep: bool) -> Pass:
        """Quantise every chunk with the present costs."""

        def work(first: int, lines: int) -> tuple[Quantised, I64, F64, I64]:
            scaled = self._scaled(first, lines, step)
            found = self._quantised(scaled, self.line_class[first : first + lines])
            counts, _ = count_symbols(found, CLASSES * self.machine.count)
            gaps, hits = point_gaps(found, scaled, self.machine)
            return found, counts, gaps, hits

        done = list(chunk_map(work, self.layout, self.jobs))
        return Pass(
            counts=np.asarray(sum(one[1] for one in done)),
            gaps=np.asarray(sum(one[2] for one in done)),
            hits=np.asarray(sum(one[3] for one in done)),
            chunks=[one[0] for one in done] if keep else None,
        )

    def fit_sample(self, step: float, *, settle: int = 2) -> tuple[float, float]:
        """Bits and squared error per value of a step on the sample, after the costs have settled a few times."""
        lines, _ = self.sample()
        parts = [self._scaled(line, 1, step) for line in lines]
        line_class = self.line_class[lines]
        scaled = np.concatenate([part for part in parts if len(part) == self.layout.width] or parts[:1])
        rate = error = 0.0
        for _ in range(settle):
            found = self._quantised(scaled, line_class[: -(-len(scaled) // self.layout.width)])
            counts, escapes = count_symbols(found, CLASSES * self.machine.count)
            rate = self.rate_of(counts, escapes) / len(scaled)
            error = found.distortion * step * step / len(scaled)
        return rate, error


def encode_tq(numbers: Numbers, target: Target, *, trellis: int = 8, jobs: int = 1) -> Coded:
    """Code a float tensor of more than one value to a target of bytes, of error, or with a given step.

    Raises TargetUnreachable with the range of bits, UnsupportedValues for too many infinities and NaNs.
    """
    encoder = _Encoder(numbers, trellis, jobs)
    if target.step is not None:
        encoder.fit_sample(target.step)
        return _written(encoder, target.step)
    if target.nmse is not None:
        return _to_error(encoder, target.nmse)
    if target.stored_bytes is None:
        raise ValueError("a target without bytes, error or step; expected one of them")
    return _to_bytes(encoder, target.stored_bytes, target.slack_bytes)


def encode_levels(numbers: Numbers, *, jobs: int = 1) -> Coded:
    """Code a float tensor of whole numbers as they are, with a step of 1: what another quantiser decided is kept."""
    encoder = _Encoder(numbers, 0, jobs, centred=False)
    encoder.rate_weight = 0.0
    return _written(encoder, 1.0)


def sampled_rate(numbers: Numbers, steps: list[float], *, trellis: int = 8) -> list[float]:
    """Bits per value of each step in units of the tensor's deviation, fitted on a sample: what a plan is made of."""
    encoder = _Encoder(numbers, trellis, 1)
    unit = max(encoder.deviation, encoder.least_step)
    return [encoder.fit_sample(step * unit)[0] for step in steps]


def _to_bytes(encoder: _Encoder, stored_bytes: int, slack_bytes: int) -> Coded:
    values = encoder.layout.values
    wanted = 8 * stored_bytes / values
    # half a step of the search on the sample is free of the whole tensor's cost
    sampled = search_below(
        lambda x: encoder.fit_sample(max(encoder.least_step, 2.0**x))[0],
        wanted, math.log2(encoder.first_step(wanted)), slack=0.02, tries=6,
    )  # fmt: skip
    encoder.fit_sample(max(encoder.least_step, 2.0**sampled.x), settle=4)
    best: list[Coded] = []

    def measure(x: float) -> float:
        coded = _written(encoder, max(encoder.least_step, 2.0**x))
        size = coded.entry.stored_bytes
        if size <= stored_bytes and (not best or size > best[0].entry.stored_bytes):
            best[:] = [coded]
        return 8 * size / values

    search_below(measure, wanted, sampled.x, slack=8 * slack_bytes / values, tries=10)
    if not best:
        least = 8 * _written(encoder, 1e3 * max(encoder.scales.largest, 1e-30)).entry.stored_bytes / values
        message = f"{encoder.numbers.name}: {wanted:.3f} bits per value cannot be had; reachable: {least:.3f} to 8"
        raise TargetUnreachable(message, reachable=(least, 8.0))
    return best[0]


def _to_error(encoder: _Encoder, nmse: float) -> Coded:
    """The largest step whose decoded values stay within the error; log2 of the error falls as the step shrinks."""
    variance = encoder.scales.variance
    start = 0.5 * math.log2(12 * nmse * max(variance, 1e-300) / encoder.machine.spacing)
    best: list[Coded] = []

    def measure(x: float) -> float:
        coded = _written(encoder, max(encoder.least_step, 2.0**-x))
        reached = coded.entry.nmse or 0.0
        if reached <= nmse and (not best or reached > (best[0].entry.nmse or 0.0)):
            best[:] = [coded]
        return math.log2(max(reached, 1e-30))

    encoder.fit_sample(max(encoder.least_step, 2.0**start))
    search_below(measure, math.log2(nmse), -start, slack=0.0143, slope=-2.0, tries=10)
    if not best:
        message = f"{encoder.numbers.name}: an error of {nmse:g} cannot be had in {encoder.numbers.format.name}"
        raise TargetUnreachable(message, reachable=(1e-9, 1.0))
    return best[0]


def _written(encoder: _Encoder, step: float) -> Coded:
    """Quantise with a step and write everything; tables fit what was counted, the error is that of decoding."""
    small = encoder.layout.values <= KEPT_VALUES
    steering = encoder.bits
    done = encoder.run(step, keep=small)
    tables = mirrored(done.counts)
    points = rounded_points(done)
    plain = replace(encoder._shared(step), points=points)
    half = tables[:, :0:-1]
    shared = replace(plain, frequencies=np.concatenate([half, tables], axis=1).astype(np.uint16))
    side = write_shared(shared, write_mirrored(tables))
    starts = {first: at for at, (first, _) in enumerate(encoder.layout.chunks())}

    def work(first: int, lines: int) -> bytes:
        line_class = encoder.line_class[first : first + lines]
        if done.chunks is not None:
            found = done.chunks[starts[first]]
        else:
            scaled = encoder._scaled(first, lines, step)
            found = quantise(
                scaled, shared.grid(line_class, len(scaled)), steering, shared.machine, encoder.rate_weight
            )
        return chunk_payload(encoder.numbers.floats(*encoder.layout.span(first, lines)), found, shared, line_class)

    payloads = list(chunk_map(work, encoder.layout, encoder.jobs))
    coded = pack(encoder.numbers, "tq", side, payloads)
    return replace(coded, entry=msgspec.structs.replace(coded.entry, nmse=_error(encoder, coded)))


def _error(encoder: _Encoder, coded: Coded) -> float:
    """Mean squared error of the decoded values over the variance; non-finite values count as reached."""
    entry, side = coded.entry, coded.blobs[0]

    def work(first: int, lines: int) -> float:
        chunk = next(one for one in entry.chunks if one.first_line == first)
        payload = coded.blobs[1 + entry.chunks.index(chunk)]
        decoded = from_words(decode_tq(entry, side, payload, chunk, encoder.numbers.name), encoder.numbers.format)
        values = encoder.numbers.floats(*encoder.layout.span(first, lines))
        gap = finite(values).astype(np.float64) - finite(decoded)
        return float((gap * gap).sum())

    total = sum(chunk_map(work, encoder.layout, encoder.jobs))
    return total / encoder.layout.values / encoder.scales.variance if encoder.scales.variance > 0 else 0.0
