"""Verbs of `llmsys compress` that measure: eval, calibrate, sweep, engines."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from llmsys.cli._compress_options import AllowVideo, Jobs
from llmsys.cli._options import Json, Plot, Quiet, Seed
from llmsys.cli._render import progress, report, table
from llmsys.cli._streams import records_out

__all__ = ["VERBS"]


def eval_(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A file or directory that `compress encode` wrote.")],
    *,
    against: Annotated[Path, typer.Option("--against", metavar="ORIG", help="What it was made from.")],
    text: Annotated[
        Path | None, typer.Option("--text", metavar="FILE", help="Text to predict with both models.")
    ] = None,
    tokens: Annotated[int, typer.Option("--tokens", min=2, help="Tokens of the text to use.")] = 2048,
    allow_video: AllowVideo = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Print error, cosine and largest error of each coded tensor; with --text, KL, perplexity and top-1 agreement.

    KL is in nats per token from the original's predictions; standard errors are over tokens, paired.
    Example: llmsys compress eval small/ --against model/ --text heldout.txt
    """
    from llmsys.compress import tasks

    with progress("tokens") as advance:
        errors, score = tasks.evaluate(
            source, against, text=text, tokens=tokens, allow_video=allow_video, advance=advance
        )
    lines = [*errors, *([score] if score is not None else [])]
    if json or not sys.stdout.isatty():
        with records_out() as out:
            for line in lines:
                out.write(line)
        return
    table([{name: getattr(line, name) for name in ("tensor", "codec", "nmse", "cosine")} for line in errors])
    if score is not None:
        table([{name: getattr(score, name) for name in score.__struct_fields__}])


def sweep(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A model directory, .safetensors, .gguf or .npy.")],
    *,
    codec: Annotated[str, typer.Option("--codec", metavar="a,b,c", help="Codecs to compare.")] = "tq,svtav1",
    bits: Annotated[str, typer.Option("--bits", metavar="B,B", help="Bits per value of each point.")] = "2,3,4",
    trellis: Annotated[int, typer.Option("--trellis", help="States of the quantiser of tq: 0, 4 or 8.")] = 8,
    depth: Annotated[int, typer.Option("--depth", help="Bits of a video sample: 8, 10 or 12.")] = 10,
    jobs: Jobs = 0,
    plot: Plot = None,
    quiet: Quiet = False,
) -> None:
    """Print rate and error of every tensor, codec and rate as lines; gap_db is the distance to the Gaussian bound.

    Example: llmsys compress sweep w.npy --codec tq,x265,svtav1 --bits 2,3,4 --plot rd.html
    """
    from llmsys.compress import tasks

    told = []
    with records_out(flush_each=True) as out, progress("points") as advance:
        for line in tasks.sweep_path(source, codecs=codec, rates=bits, trellis=trellis, depth=depth, jobs=jobs):
            out.write(line)
            told.append(line)
            advance(1)
    if plot:
        from llmsys.cli._plot import Figure, Line, draw
        from llmsys.compress.sweeping import chart

        curves = [Line(name, [x for x, _ in points], [y for _, y in points]) for name, points in chart(told).items()]
        draw(Figure("Rate and error", "bits per value", "NMSE, dB", curves), plot)


def engines(*, json: Json = False, quiet: Quiet = False) -> None:
    """Try every encoder and decoder on one frame and print what works here, with MB/s of bfloat16 values.

    Example: llmsys compress engines --json
    """
    from llmsys.compress.engine_trials import try_engines

    lines = list(try_engines())
    if json or not sys.stdout.isatty():
        with records_out() as out:
            for line in lines:
                out.write(line)
        return
    table([{name: getattr(line, name) for name in line.__struct_fields__} for line in lines])


def calibrate(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A model directory, smollm2 or .gguf.")],
    text: Annotated[Path, typer.Argument(metavar="TEXT", help="A text like those that the model will see.")],
    *,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="Where to write the .safetensors.")],
    tokens: Annotated[int, typer.Option("--tokens", min=32, help="Tokens of the text to use.")] = 3072,
    seed: Seed = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure what errors in each projection cost the model's loss, for `encode --calib`: K-FAC moments.

    Labels are sampled from the model, so the loss that is printed (nats per token) is its own uncertainty.
    Example: llmsys compress calibrate model/ notes.txt -o stats.safetensors
    """
    from llmsys.compress import tasks

    with progress("tokens", tokens) as advance:
        line = tasks.calibrate_path(model, text, out, tokens=tokens, seed=seed, advance=advance)
    report(line, [{"matrices": line.matrices, "tokens": line.tokens, "loss": line.loss}], json=json)


VERBS = (eval_, calibrate, sweep, engines)
