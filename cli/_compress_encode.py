"""Verb of `llmsys compress` that writes: encode."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmsys.cli._compress_options import Jobs, MemorySize, parse_size
from llmsys.cli._options import Quiet, one_of
from llmsys.cli._render import note, progress, report
from llmsys.cli._streams import records_out

if TYPE_CHECKING:
    from llmsys.compress.requests import EncodeRequest

__all__ = ["VERBS"]

CODECS = ("tq", "rtn", "auto", "x265", "x264", "svtav1", "hevc_nvenc", "h264_nvenc", "av1_nvenc")

Input = Annotated[
    str,
    typer.Argument(metavar="IN", help="A model directory, smollm2, .gguf, .safetensors, or .npy (- on stdin)."),
]
Output = Annotated[
    str, typer.Argument(metavar="OUT", help="A file; a directory for a model; - writes framed records to stdout.")
]

Codec = Annotated[str, typer.Option("--codec", help=f"One of {', '.join(CODECS)}.", callback=one_of(*CODECS))]
Allocate = Annotated[
    str | None,
    typer.Option(
        "--allocate",
        help="Bits among tensors: uniform, equal-noise, or fisher, by the calibration [fisher with --calib].",
        callback=one_of("uniform", "equal-noise", "fisher"),
    ),
]
Kind = Annotated[
    str,
    typer.Option("--kind", help="weights; or kv, whose rows are tokens.", callback=one_of("weights", "kv")),
]
Calib = Annotated[
    Path | None,
    typer.Option("--calib", metavar="FILE", help="Code for the model's loss: a text, or what calibrate wrote."),
]
BitsFor = Annotated[
    list[str] | None, typer.Option("--bits-for", metavar="GLOB=B", help="Bits of these tensors; the last fit wins.")
]
Chroma = Annotated[
    str, typer.Option("--chroma", help="420, constant; gray is refused by GPUs.", callback=one_of("420", "gray"))
]


def encode(
    source: Input,
    out: Output,
    *,
    bits: Annotated[float | None, typer.Option("--bits", help="Bits per value, all bytes counted [4].")] = None,
    nmse: Annotated[float | None, typer.Option("--nmse", min=1e-9, max=1, help="Squared error over variance.")] = None,
    size: Annotated[str | None, typer.Option("--size", metavar="SIZE", help="Size of the output, as 1.2GiB.")] = None,
    lossless: Annotated[bool, typer.Option("--lossless", help="Keep every bit.")] = False,
    qp: Annotated[int | None, typer.Option("--qp", min=0, help="Quality of a video engine, 0 the finest.")] = None,
    codec: Codec = "tq",
    calib: Calib = None,
    kind: Kind = "weights",
    allocate: Allocate = None,
    trellis: Annotated[int, typer.Option("--trellis", help="States of the quantiser: 0, 4 or 8.")] = 8,
    keep: Annotated[list[str] | None, typer.Option("--keep", metavar="GLOB", help="Leave these tensors alone.")] = None,
    bits_for: BitsFor = None,
    plan_in: Annotated[Path | None, typer.Option("--plan-in", metavar="FILE", help="Bits per tensor.")] = None,
    plan_out: Annotated[Path | None, typer.Option("--plan-out", metavar="FILE", help="Write the plan.")] = None,
    depth: Annotated[int, typer.Option("--depth", help="Bits of a video sample: 8, 10 or 12.")] = 10,
    chroma: Chroma = "420",
    preset: Annotated[str, typer.Option("--preset", help="The video encoder's preset; ours if empty.")] = "",
    jobs: Jobs = 0,
    memory: MemorySize = "2GiB",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with OUT.part of a run that was cut.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and code nothing.")] = False,
    quiet: Quiet = False,
) -> None:
    """Code tensors to a rate, an error or a size; a line per tensor on stdout as it is finished, then the total.

    Norms, biases, tensors of fewer than 4,096 values and tensors of whole numbers stay as they are.
    Example: llmsys compress encode model/ small/ --bits 3.0 --keep '*.embed_tokens.*'
    """
    from llmsys.compress.requests import EncodeRequest
    from llmsys.compress.video import VideoSettings

    request = EncodeRequest(
        bits=bits, nmse=nmse, size=parse_size(size), lossless=lossless, codec=codec, allocate=allocate,
        calib=calib, kind=kind,
        trellis=trellis, keep=tuple(keep or ()), bits_for=tuple(bits_for or ()), plan_in=plan_in, plan_out=plan_out,
        jobs=jobs, qp=qp, video=VideoSettings(depth, chroma, preset), memory=parse_size(memory) or 0,
    )  # fmt: skip
    if source == "-" or out == "-":
        _encode_stream(request, source, out)
        return
    prepared = request.prepare(Path(source))
    if dry_run:
        with records_out() as lines:
            for planned in prepared.plan:
                lines.write(planned)
        return
    told = []
    with records_out(flush_each=True) as lines, progress("tensors", len(prepared.plan)) as advance:
        for line in prepared.encode(Path(out), resume=resume):
            lines.write(line)
            told.append(line)
            advance(1)
    total = prepared.total(Path(out), told)
    report(total, [{"values": total.values, "bytes": total.bytes, "bits": total.bits}], json=True)


def _encode_stream(request: "EncodeRequest", source: str, out: str) -> None:
    if source != "-" or out != "-":
        raise typer.BadParameter("a stream goes from - to -; expected both or neither")
    sys.stdout.flush()
    for line in request.encode_stream(sys.stdin.buffer, sys.stdout.buffer):
        note(f"{line.tensor}: {line.bits:.3f} bits per value, {line.bytes} bytes")


VERBS = (encode,)
