"""What a caller of `encode` asks for, checked and made into a plan.

Joins targets, selection and plan files; knows no codec's bytes.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from llmsys.compress.container import file_bytes
from llmsys.compress.encoding import ENCODERS, Goal, TensorLine, TotalLine, encode_source
from llmsys.compress.inspecting import sum_up
from llmsys.compress.planning import PlanLine, Selection, make_plan, parse_bits_for, read_plan, write_plan
from llmsys.compress.sensitivity import Statistics, read_statistics
from llmsys.compress.sources import Source, open_input
from llmsys.compress.streaming import encode_stream
from llmsys.compress.trellis import MACHINES
from llmsys.compress.video import DEFAULT_VIDEO, VideoSettings
from llmsys.compress.video_engines import ENGINES, engine_named
from llmsys.errors import UsageFault

__all__ = ["EncodeRequest", "Prepared"]

DEFAULT_BITS = 4.0
RECORD_BYTES = 400
"""What the record of a tensor that is left as it is takes at most, beside its name twice."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """An input with its plan: ready to be coded."""

    source: Source
    plan: list[PlanLine]
    goal: Goal

    def encode(self, out: Path, *, resume: bool = False) -> Iterator[TensorLine]:
        """Code everything into `out`, as `encode_source` does."""
        return encode_source(self.source, out, self.plan, self.goal, resume=resume)

    def total(self, out: Path, lines: list[TensorLine]) -> TotalLine:
        """What the files of `out` come to."""
        files = [out if file.name is None else out / file.name for file in self.source.files]
        return sum_up(lines, file_bytes=sum(file.stat().st_size for file in files))


@dataclass(frozen=True, slots=True)
class EncodeRequest:
    """A target (bits, nmse, size in bytes, or lossless; 4 bits where none is given) and how to reach it.

    `jobs` 0 is one per CPU that the process may use."""

    bits: float | None = None
    nmse: float | None = None
    size: int | None = None
    lossless: bool = False
    codec: str = "tq"
    kind: str = "weights"
    allocate: str | None = None
    calib: Path | None = None
    qp: int | None = None
    trellis: int = 8
    video: VideoSettings = DEFAULT_VIDEO
    keep: tuple[str, ...] = ()
    bits_for: tuple[str, ...] = ()
    plan_in: Path | None = None
    plan_out: Path | None = None
    jobs: int = 1
    memory: int = 2 << 30

    def prepare(self, path: Path) -> Prepared:
        """Read the input's headers and make its plan. Raises UsageFault for what contradicts itself."""
        self._check()
        self.check_engine()
        source = open_input(path)
        selection = self._selection(is_model=source.is_model)
        statistics = self._statistics(source.path)
        if self.plan_in is not None:
            plan = read_plan(self.plan_in, source.tensors, ENCODERS)
        else:
            bits = self._bits(source, selection)
            how = self.allocate or ("equal-noise" if statistics is None else "fisher")
            plan = make_plan(source.tensors, selection, bits=bits, allocate=how, statistics=statistics)
        if self.plan_out is not None:
            write_plan(self.plan_out, plan)
        return Prepared(source, plan, replace(self.goal(), statistics=statistics))

    def encode_stream(self, source: BinaryIO, out: BinaryIO) -> Iterator[TensorLine]:
        """Code .npy arrays of a pipe into frames. Raises UsageFault for options that need the whole input."""
        self._check()
        self.check_engine()
        if self.size is not None or self.plan_in or self.plan_out or self.bits_for or self.calib:
            raise UsageFault(
                "a stream has no size, no plan and no model to calibrate; expected --bits, --nmse or --lossless"
            )
        bits = None if self._open_rate else self.bits or DEFAULT_BITS
        selection = self._selection(is_model=False)
        return encode_stream(source, "stdin", out, selection, self.goal(), bits=bits)

    def _statistics(self, model: Path) -> Statistics | None:
        if self.calib is None:
            return None
        if self.calib.suffix == ".safetensors":
            return read_statistics(self.calib)
        from llmsys.compress.calibration import DEFAULT_TOKENS, calibrate

        return calibrate(model, self.calib, tokens=DEFAULT_TOKENS, seed=0, advance=lambda _: None)[0]

    def check_engine(self) -> None:
        """Raise EngineMissing now rather than at the first tensor."""
        if self.codec in ENGINES and not self.lossless:
            engine_named(self.codec)

    def _check(self) -> None:
        targets = [one is not None for one in (self.bits, self.nmse, self.size, self.qp)] + [self.lossless]
        if sum(targets) > 1:
            raise UsageFault("more than one target; expected one of --bits, --nmse, --size, --qp and --lossless")
        if self.plan_in is not None and (sum(targets) or self.keep or self.bits_for):
            raise UsageFault("--plan-in says every tensor's bits; expected no target, --keep or --bits-for beside it")
        if self._open_rate and self.bits_for:
            raise UsageFault("--bits-for goes with a rate; expected --bits or --size beside it")
        if self.calib is not None and (self._open_rate or self.codec != "tq"):
            raise UsageFault("--calib says where bits go; expected --bits or --size beside it, and --codec tq")
        if self.kind == "kv" and (self.calib is not None or self.lossless or self.codec not in ("tq", "auto")):
            raise UsageFault("--kind kv is tq's; expected --codec tq or auto, and neither --lossless nor --calib")
        if self.allocate == "fisher" and self.calib is None:
            raise UsageFault("--allocate fisher needs a calibration; expected --calib TEXT or STATS beside it")
        if self.trellis not in MACHINES:
            raise UsageFault(f"--trellis {self.trellis}; expected one of {', '.join(map(str, MACHINES))}")
        self._check_video()

    def _check_video(self) -> None:
        engine = ENGINES.get(self.codec)
        if engine is None:
            if self.qp is not None or self.video != DEFAULT_VIDEO:
                raise UsageFault(
                    "--qp, --depth, --chroma and --preset are a video engine's; expected --codec x265 or another"
                )
            return
        low, high = engine.qualities
        if self.qp is not None and not low <= self.qp <= high:
            raise UsageFault(f"--qp {self.qp}; expected {low} to {high} of {engine.name}")
        if self.video.depth not in engine.depths:
            raise UsageFault(f"--depth {self.video.depth}; {engine.name} has {', '.join(map(str, engine.depths))}")
        if self.video.chroma == "gray" and not engine.monochrome:
            raise UsageFault(f"--chroma gray; {engine.name} has 420 alone")

    @property
    def _open_rate(self) -> bool:
        return self.nmse is not None or self.qp is not None or self.lossless

    def _selection(self, *, is_model: bool) -> Selection:
        codec = "lossless" if self.lossless else self.codec
        return Selection(codec, is_model, self.keep, parse_bits_for(self.bits_for))

    def goal(self) -> Goal:
        """How each tensor is coded."""
        # llmsys.gpu knows quotas too, but loads torch: too much for a stream in bounded memory
        jobs = self.jobs or len(os.sched_getaffinity(0))
        return Goal(self.nmse, self.qp, self.trellis, self.video, jobs, self.memory, kind=self.kind)

    def _bits(self, source: Source, selection: Selection) -> float | None:
        if self._open_rate:
            return None
        if self.size is None:
            return self.bits if self.bits is not None else DEFAULT_BITS
        plain = [tensor for tensor in source.tensors if selection.codec_of(tensor) == "raw"]
        others = sum(RECORD_BYTES + 2 * len(one.name) + one.layout.values * one.format.bits // 8 for one in plain)
        values = sum(one.layout.values for one in source.tensors) - sum(one.layout.values for one in plain)
        if not values:
            raise UsageFault(f"{source.path} has no tensor that is coded; expected at least one beside --size")
        return 8 * (self.size - others - file_bytes() * len(source.files)) / values
