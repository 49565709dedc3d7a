"""Which tensor gets which codec and how many bits: a plan that can be written, read and edited before hours of work.

`uniform` gives every tensor the same bits; `equal-noise` gives all the same error relative to their own deviation, so
that a tensor whose values pack well needs fewer; `fisher` gives all matrices that a calibration knows one step in
units of the model's loss, which is the split that costs it least. Knows no file but the plan's own JSON Lines.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from llmsys.artifacts import encode, read_records, replace_file
from llmsys.compress.coded import Numbers
from llmsys.compress.errors import TargetUnreachable
from llmsys.compress.feedback import takes, weighted_rates
from llmsys.compress.sensitivity import Sensitivity, Statistics
from llmsys.compress.tensor_encoder import sampled_rate
from llmsys.errors import UsageFault

__all__ = [
    "BITS",
    "SMALLEST_TENSOR",
    "PlanLine",
    "Selection",
    "check_bits",
    "make_plan",
    "parse_bits_for",
    "read_plan",
    "write_plan",
]

SMALLEST_TENSOR = 4096
BITS = (0.1, 8.0)
"""The range of bits per value that any tensor may be asked for."""
LEAST_WEIGHTED = 0.5
"""The fewest bits that `fisher` gives a matrix: under it the line over log2 of the step bends."""
NOISE_STEPS = [0.08, 0.6]
"""Two steps in units of a tensor's deviation, between which its rate is taken as a line over log2 of the step."""


class PlanLine(msgspec.Struct, frozen=True):
    """One tensor: its codec, and its bits per value where the codec is lossy and the target is a rate."""

    tensor: str
    codec: str
    bits: float | None = None


@dataclass(frozen=True, slots=True)
class Selection:
    """Which tensors are coded: all floats of SMALLEST_TENSOR values or more, vectors of a model and `keep` left out."""

    codec: str
    is_model: bool
    keep: tuple[str, ...] = ()
    bits_for: tuple[tuple[str, float], ...] = ()

    def codec_of(self, tensor: Numbers) -> str:
        """The codec of a tensor: `raw` for one that is left as it is."""
        vector = self.is_model and len(tensor.shape) < 2 and self.codec != "lossless"
        kept = any(fnmatchcase(tensor.name, pattern) for pattern in self.keep)
        small = tensor.layout.values < SMALLEST_TENSOR
        return "raw" if small or vector or kept or not tensor.format.is_float else self.codec

    def fixed_bits(self, name: str) -> float | None:
        """Bits that --bits-for gives a tensor: of the last pattern that fits."""
        return next((bits for pattern, bits in reversed(self.bits_for) if fnmatchcase(name, pattern)), None)


def parse_bits_for(given: Sequence[str]) -> tuple[tuple[str, float], ...]:
    """GLOB=B pairs. Raises UsageFault for anything else.

    >>> parse_bits_for(["*.embed_tokens.*=6"])
    (('*.embed_tokens.*', 6.0),)
    """
    pairs = []
    for text in given:
        pattern, _, bits = text.rpartition("=")
        try:
            pairs.append((pattern, check_bits(float(bits))))
        except ValueError as error:
            raise UsageFault(f"--bits-for {text!r}: {error}; expected GLOB=BITS") from error
    return tuple(pairs)


def check_bits(bits: float) -> float:
    """The bits, if any tensor could have them. Raises TargetUnreachable with the range."""
    if not BITS[0] <= bits <= BITS[1]:
        raise TargetUnreachable(
            f"{bits:g} bits per value cannot be had; reachable: {BITS[0]} to {BITS[1]}", reachable=BITS
        )
    return bits


def make_plan(
    tensors: Sequence[Numbers],
    selection: Selection,
    *,
    bits: float | None,
    allocate: str,
    statistics: Statistics | None = None,
) -> list[PlanLine]:
    """A line for every tensor; the mean of the bits over all coded values is `bits`. None leaves the rate open."""
    codecs = {tensor.name: selection.codec_of(tensor) for tensor in tensors}
    lossy = [tensor for tensor in tensors if codecs[tensor.name] not in ("raw", "lossless")]
    if bits is None:
        return [PlanLine(tensor.name, codecs[tensor.name]) for tensor in tensors]
    check_bits(bits)
    fixed = {tensor.name: given for tensor in lossy if (given := selection.fixed_bits(tensor.name)) is not None}
    free = [tensor for tensor in lossy if tensor.name not in fixed]
    total = bits * sum(tensor.layout.values for tensor in lossy)
    left = total - sum(fixed[tensor.name] * tensor.layout.values for tensor in lossy if tensor.name in fixed)
    share = left / max(1, sum(tensor.layout.values for tensor in free))
    if free:
        check_bits(share)
    shares = dict.fromkeys((tensor.name for tensor in free), share)
    if allocate == "equal-noise" and len(free) > 1 and selection.codec == "tq":
        shares = _equal_noise(free, share)
    if allocate == "fisher" and statistics is not None:
        found = {one.name: (one, known) for one in free if (known := statistics.of(one.name, one.shape)) and takes(one)}
        shares |= _one_constant(list(found.values()), share)
    rates = fixed | shares
    return [PlanLine(tensor.name, codecs[tensor.name], rates.get(tensor.name)) for tensor in tensors]


def _equal_noise(tensors: Sequence[Numbers], bits: float) -> dict[str, float]:
    """Bits of each tensor at the one relative step that makes their mean `bits`.

    The trellis moves all rates alike, so the plain quantiser, which is faster, says how they differ.
    """
    rates = np.array([sampled_rate(tensor, NOISE_STEPS, trellis=0) for tensor in tensors])
    values = np.array([tensor.layout.values for tensor in tensors], np.float64)
    weights = values / values.sum()
    ends = weights @ rates
    at = (ends[0] - bits) / max(1e-9, ends[0] - ends[1])
    found = np.clip(rates[:, 0] + at * (rates[:, 1] - rates[:, 0]), *BITS)
    found = np.clip(found + (bits - weights @ found), *BITS)
    return {tensor.name: float(one) for tensor, one in zip(tensors, found, strict=True)}


def _one_constant(matrices: Sequence[tuple[Numbers, Sensitivity]], bits: float) -> dict[str, float]:
    """Bits of each matrix at the one weighted step that makes their mean `bits`, by bisection over its log2."""
    if not matrices:
        return {}
    lows, rates = zip(*(weighted_rates(tensor, found, NOISE_STEPS) for tensor, found in matrices), strict=True)
    ends = np.array(rates)
    span = np.log2(NOISE_STEPS[1] / NOISE_STEPS[0])
    spreads = np.array(lows) + np.log2(NOISE_STEPS[0])
    values = np.array([tensor.layout.values for tensor, _ in matrices], np.float64)
    weights = values / values.sum()

    def at(step: float) -> NDArray[np.float64]:
        slopes = (ends[:, 0] - ends[:, 1]) / span
        return np.asarray(np.clip(ends[:, 0] - slopes * (step - spreads), LEAST_WEIGHTED, BITS[1]), np.float64)

    low, high = float(spreads.min()) - 10.0, float(spreads.max()) + 10.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if float(weights @ at(middle)) > bits else (low, middle)
    found = at(high)
    return {tensor.name: float(one) for (tensor, _), one in zip(matrices, found, strict=True)}


def read_plan(path: Path, tensors: Sequence[Numbers], codecs: Sequence[str]) -> list[PlanLine]:
    """A plan from its file, in the order of the tensors. Raises UsageFault where it does not fit them."""
    lines = {line.tensor: line for line in read_records(path, PlanLine)}
    names = [tensor.name for tensor in tensors]
    if missing := next((name for name in names if name not in lines), None):
        raise UsageFault(f"{path} has no line for tensor {missing!r}; expected one for each of {len(names)}")
    if strange := next((name for name in lines if name not in names), None):
        raise UsageFault(f"{path} has a line for {strange!r}, which the input lacks")
    for line in lines.values():
        if line.codec not in codecs:
            raise UsageFault(
                f"{path}: tensor {line.tensor!r}: codec {line.codec!r}; expected one of {', '.join(codecs)}"
            )
        if line.bits is not None:
            check_bits(line.bits)
    return [lines[name] for name in names]


def write_plan(path: Path, plan: Sequence[PlanLine]) -> None:
    """Write a plan as JSON Lines, whole or not at all."""
    with replace_file(path) as stream:
        for line in plan:
            stream.write(encode(line))
