"""Verbs of `llmsys compress` that read: decode, inspect, verify."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from llmsys.cli._compress_options import AllowVideo, MemorySize, parse_size
from llmsys.cli._options import Json, Quiet, one_of
from llmsys.cli._render import note, progress, table
from llmsys.cli._streams import records_out

__all__ = ["VERBS"]

Coded = Annotated[Path, typer.Argument(metavar="IN", help="A file or directory that `compress encode` wrote.")]


def decode(
    source: Annotated[str, typer.Argument(metavar="IN", help="What `encode` wrote; - reads framed records.")],
    out: Annotated[str, typer.Argument(metavar="OUT", help=".safetensors, .npy, a directory, or - for .npy.")],
    *,
    tensor: Annotated[str | None, typer.Option("--tensor", metavar="NAME", help="One tensor alone.")] = None,
    rows: Annotated[str | None, typer.Option("--rows", metavar="A:B", help="Rows A to B − 1 of that tensor.")] = None,
    dtype: Annotated[
        str | None,
        typer.Option("--dtype", help="Floats as bf16, f16 or f32.", callback=one_of("bf16", "f16", "f32")),
    ] = None,
    memory: MemorySize = "2GiB",
    allow_video: AllowVideo = False,
    quiet: Quiet = False,
) -> None:
    """Turn compressed tensors back into plain ones; rows read only the chunks that hold them.

    Example: llmsys compress decode small/ rows.npy --tensor model.embed_tokens.weight --rows 0:64
    """
    from llmsys.compress import decoding, tasks

    if source == "-":
        if tensor or rows or dtype:
            raise typer.BadParameter("a stream is decoded whole; expected no --tensor, --rows or --dtype")
        tasks.decode_pipe(
            sys.stdin.buffer, out, sys.stdout.buffer, memory=parse_size(memory) or 0, allow_video=allow_video
        )
        return
    wanted = decoding.parse_rows(rows) if rows else None
    tasks.decode_file(
        Path(source), out, sys.stdout.buffer, tensor=tensor, rows=wanted, dtype=dtype, allow_video=allow_video
    )


def inspect(source: Coded, *, json: Json = False, quiet: Quiet = False) -> None:
    """Print shape, codec, bits per value, error and bytes of each tensor, then the total; reads only headers.

    Example: llmsys compress inspect small/ --json | tail -1
    """
    from llmsys.compress import tasks

    lines, total = tasks.inspect_path(source)
    if json or not sys.stdout.isatty():
        with records_out() as out:
            for line in lines:
                out.write(line)
            out.write(total)
        return
    table(
        [
            {"tensor": one.tensor, "codec": one.codec, "bits": one.bits, "nmse": one.nmse, "bytes": one.bytes}
            for one in lines
        ]
    )
    note(f"{total.coded_values:,} coded values at {total.bits:.3f} bits, {total.bytes:,} bytes in all")


def verify(
    source: Coded,
    *,
    deep: Annotated[bool, typer.Option("--deep", help="Decode everything too.")] = False,
    allow_video: AllowVideo = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare every checksum; a bad tensor ends it with exit code 65 and its name.

    Example: llmsys compress verify small/ --deep
    """
    from llmsys.compress import tasks

    with progress("tensors") as advance:
        checked = tasks.verify_path(source, deep=deep, allow_video=allow_video, advance=advance)
    if json or not sys.stdout.isatty():
        with records_out() as out:
            out.write({"tensors": checked, "sound": True, "deep": deep})
        return
    table([{"tensors": checked, "sound": True, "deep": deep}])


VERBS = (decode, inspect, verify)
