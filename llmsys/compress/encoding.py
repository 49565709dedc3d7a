"""Encode a whole input: every tensor by its line of a plan, several at once, into files that can be resumed.

Knows the codecs' encoders; knows nothing of their bytes. What a file will take beside a tensor's stream (its record and
its share of the header) is part of the rate that is asked for.
"""

import shutil
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import msgspec

from llmsys.artifacts import replace_file
from llmsys.compress.coded import Coded, Numbers, Target
from llmsys.compress.container import file_bytes, largest_record, record_bytes
from llmsys.compress.container_writer import ContainerWriter, open_writer
from llmsys.compress.errors import EngineMissing, TargetUnreachable, UnsupportedValues
from llmsys.compress.exact import constant_word, encode_constant, encode_lossless, encode_raw
from llmsys.compress.feedback import encode_weighted, takes
from llmsys.compress.planning import PlanLine
from llmsys.compress.records import TensorEntry
from llmsys.compress.rounding import encode_rounded
from llmsys.compress.sensitivity import Statistics
from llmsys.compress.sources import Source, SourceFile
from llmsys.compress.tensor_encoder import encode_tq
from llmsys.compress.token_transform import encode_tokens
from llmsys.compress.video import DEFAULT_VIDEO, VIDEO_CODECS, VideoSettings, encode_video

__all__ = ["ENCODERS", "Goal", "TensorLine", "TotalLine", "encode_source", "encode_tensor", "line_of"]

ENCODERS = ("tq", "rtn", "auto", *VIDEO_CODECS, "lossless", "raw")
TRIED = ("tq", "svtav1", "x265")
"""What `auto` compares; an encoder that is missing is passed over."""
SLACK_BITS = 0.0025
"""How far below the wanted rate, in bits per value, a stream may stay; records add at most a little to it."""


class TensorLine(msgspec.Struct, frozen=True):
    """What became of one tensor: `bits` per value and `bytes` count all that the file needs for it."""

    tensor: str
    shape: tuple[int, ...]
    dtype: str
    codec: str
    bits: float
    nmse: float | None
    bytes: int


class TotalLine(msgspec.Struct, frozen=True):
    """All of an output: values and bytes of the coded tensors alone too, whose rate is `bits`."""

    total: bool
    values: int
    bytes: int
    coded_values: int
    coded_bytes: int
    bits: float


@dataclass(frozen=True, slots=True)
class Goal:
    """How each tensor is coded: one error or one video quality for all, or the plan's bits; trellis, video, threads.

    With `statistics` a matrix that they know is coded for the model's loss, every other as without; rows of kind
    "kv" are tokens, which may be like their neighbours.
    """

    nmse: float | None = None
    quality: int | None = None
    trellis: int = 8
    video: VideoSettings = DEFAULT_VIDEO
    jobs: int = 1
    memory: int = 2 << 30
    statistics: Statistics | None = None
    kind: str = "weights"

    def described(self) -> str:
        """What the bytes depend on."""
        settings = f"{self.kind} trellis={self.trellis} {self.video} {self._calibrated()}"
        return f"nmse={self.nmse} quality={self.quality} {settings}"

    def _calibrated(self) -> str:
        if self.statistics is None:
            return ""
        return f"calibrated={self.statistics.checksum()}"


def line_of(name: str, entry: TensorEntry) -> TensorLine:
    """The line of a tensor by its record."""
    size = entry.stored_bytes + record_bytes(name, entry)
    bits = 8 * size / entry.values if entry.values else 0.0
    return TensorLine(name, entry.shape, entry.dtype, entry.codec, bits, entry.nmse, size)


def encode_tensor(tensor: Numbers, line: PlanLine, goal: Goal, *, overhead: int = 0, jobs: int = 1) -> Coded:
    """Code one tensor by its line; `overhead` bytes of the file count towards its rate.

    A tensor whose values are all one is stored as that one. Raises CodecErrors that name the tensor.
    """
    if line.codec == "raw":
        return encode_raw(tensor)
    if not tensor.format.is_float:
        raise UnsupportedValues(tensor.name, f"{tensor.format.name} values", "a float format, or codec raw")
    word = constant_word(tensor)
    if word is not None:
        return encode_constant(tensor, word)
    if line.codec == "lossless":
        return encode_lossless(tensor, jobs=jobs)
    target = _target(tensor, line, goal, overhead)
    found = goal.statistics.of(tensor.name, tensor.shape) if goal.statistics and line.codec == "tq" else None
    if found is not None and target.stored_bytes is not None and takes(tensor):
        return encode_weighted(tensor, target, found, jobs=jobs)
    tried = TRIED if line.codec == "auto" else (line.codec,)
    if goal.kind == "kv" and "tq" in tried and takes(tensor):
        tried = (*tried, "ttq")
    if len(tried) > 1:
        return _best_of(tensor, target, tried, goal, jobs)
    return _lossy(tensor, target, line.codec, goal, jobs)


def _lossy(tensor: Numbers, target: Target, codec: str, goal: Goal, jobs: int) -> Coded:
    if codec in VIDEO_CODECS:
        return encode_video(tensor, target, codec, goal.video, jobs=jobs)
    if codec == "ttq":
        return encode_tokens(tensor, target, trellis=goal.trellis, jobs=jobs)
    if codec == "rtn":
        return encode_rounded(tensor, target, jobs=jobs)
    return encode_tq(tensor, target, trellis=goal.trellis, jobs=jobs)


def _best_of(tensor: Numbers, target: Target, tried: Sequence[str], goal: Goal, jobs: int) -> Coded:
    """The codec with the least error at the rate, or the fewest bytes at the error."""

    def cost(one: Coded) -> float:
        return one.entry.stored_bytes if target.nmse is not None else one.entry.nmse or 0.0

    best = _lossy(tensor, target, tried[0], goal, jobs)
    for codec in tried[1:]:
        try:
            other = _lossy(tensor, target, codec, goal, jobs)
        except (EngineMissing, TargetUnreachable):
            continue
        best = min(best, other, key=cost)
    return best


def encode_source(
    source: Source, out: Path, plan: Sequence[PlanLine], goal: Goal, *, settings: str = "", resume: bool = False
) -> Iterator[TensorLine]:
    """Write `out` (a directory where the source is a model's), yielding a line for each tensor as it is finished.

    Nothing appears before it is whole: a directory's files come one by one, its config with the first. With `resume`,
    tensors of an earlier run that was cut are taken from OUT.part, and yielded too.
    """
    lines = {line.tensor: line for line in plan}
    described = f"{source.identity} {goal.described()} {settings} {msgspec.json.encode(list(plan)).decode()}"
    if source.files[0].name is not None:
        out.mkdir(exist_ok=True)
        for companion in source.companions:
            with replace_file(out / companion.name) as stream, companion.open("rb") as original:
                shutil.copyfileobj(original, stream)
    if source.write_companions is not None:
        source.write_companions(out)
    for file in source.files:
        path = out if file.name is None else out / file.name
        with open_writer(path, settings=described, resume=resume, memory=goal.memory) as writer:
            yield from _encode_file(file, writer, lines, goal)


def _encode_file(
    file: SourceFile, writer: ContainerWriter, lines: dict[str, PlanLine], goal: Goal
) -> Iterator[TensorLine]:
    done = writer.done
    yield from (line_of(name, entry) for name, entry in done.items())
    waiting = [tensor for tensor in file.tensors if tensor.name not in done]
    lossy = sum(lines[tensor.name].bits is not None for tensor in file.tensors)
    overhead = -(-file_bytes() // max(1, lossy))
    inner = goal.jobs if len(waiting) == 1 else 1

    def work(tensor: Numbers) -> Coded:
        return encode_tensor(tensor, lines[tensor.name], goal, overhead=overhead, jobs=inner)

    for tensor, coded in _in_order(work, waiting, goal.jobs):
        writer.add(tensor.name, coded)
        yield line_of(tensor.name, coded.entry)


def _in_order(
    work: Callable[[Numbers], Coded], tensors: Sequence[Numbers], jobs: int
) -> Iterator[tuple[Numbers, Coded]]:
    """Results in order, with at most `jobs` tensors in hand."""
    with ThreadPoolExecutor(jobs) as pool:
        running: deque[tuple[Numbers, Future[Coded]]] = deque()
        try:
            for tensor in tensors:
                running.append((tensor, pool.submit(work, tensor)))
                if len(running) >= jobs:
                    first, result = running.popleft()
                    yield first, result.result()
            while running:
                first, result = running.popleft()
                yield first, result.result()
        finally:
            for _, result in running:
                result.cancel()


def _target(tensor: Numbers, line: PlanLine, goal: Goal, overhead: int) -> Target:
    if line.bits is None:
        return Target(nmse=goal.nmse, quality=goal.quality)
    values = tensor.layout.values
    budget = int(line.bits * values / 8) - overhead
    room = budget - record_bytes(tensor.name, largest_record(tensor, budget))
    return Target(stored_bytes=room, slack_bytes=max(4, int(SLACK_BITS * values / 8)))
