"""Whole jobs of the command line on paths and pipes: decode, inspect, verify.

Chooses by an output's ending what is written; knows no codec and prints nothing.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from llmsys.artifacts import replace_file
from llmsys.compress.decoding import Archive, Piece, decode_stream, write_array, write_directory_of, write_safetensors
from llmsys.compress.encoding import TensorLine, TotalLine
from llmsys.compress.evaluation import ModelScore, TensorError, compare_tensors
from llmsys.compress.inspecting import inspect_lines, sum_up, verify
from llmsys.compress.planning import check_bits
from llmsys.compress.requests import EncodeRequest
from llmsys.compress.sources import open_input
from llmsys.compress.sweeping import SweepLine, parse_list, sweep
from llmsys.compress.video import VideoSettings
from llmsys.compress.video_engines import ENGINES
from llmsys.errors import UsageFault

if TYPE_CHECKING:
    from llmsys.compress.calibration import CalibrationLine

__all__ = ["calibrate_path", "decode_file", "decode_pipe", "evaluate", "inspect_path", "sweep_path", "verify_path"]


def decode_pipe(source: BinaryIO, out: str, stdout: BinaryIO, *, memory: int, allow_video: bool) -> int:
    """Decode framed records into .npy arrays in a file, or on stdout for `-`; returns how many."""
    if out == "-":
        return decode_stream(source, "stdin", stdout, memory=memory, allow_video=allow_video)
    if not out.endswith(".npy"):
        raise UsageFault(f"a stream decodes into .npy; expected - or a file that ends in .npy, not {out}")
    with replace_file(Path(out)) as stream:
        return decode_stream(source, "stdin", stream, memory=memory, allow_video=allow_video)


def decode_file(
    source: Path,
    out: str,
    stdout: BinaryIO,
    *,
    tensor: str | None,
    rows: tuple[int, int] | None,
    dtype: str | None,
    allow_video: bool,
) -> None:
    """Decode a compressed file or directory into what `out` ends in. Raises UsageFault where that does not fit."""
    if rows is not None and tensor is None:
        raise UsageFault("--rows are of one tensor; expected --tensor NAME beside them")
    with Archive(source, allow_video=allow_video) as archive:
        names = archive.names() if tensor is None else [tensor]
        pieces = [archive.piece(name, rows=rows, dtype=dtype) for name in names]
        if out == "-":
            for piece in pieces:
                write_array(stdout, piece)
        elif out.endswith(".npy"):
            with replace_file(Path(out)) as stream:
                write_array(stream, _only(pieces))
        elif out.endswith(".safetensors"):
            write_safetensors(Path(out), pieces)
        elif tensor is None and source.is_dir():
            write_directory_of(archive, Path(out), dtype=dtype)
        else:
            raise UsageFault(f"{out}: expected .npy, .safetensors or -, or a directory for a directory")


def inspect_path(source: Path) -> tuple[list[TensorLine], TotalLine]:
    """A line per tensor and the total, from headers alone."""
    with Archive(source) as archive:
        lines = list(inspect_lines(archive))
        return lines, sum_up(lines, file_bytes=sum(container.size for container in archive.containers))


def verify_path(source: Path, *, deep: bool, allow_video: bool, advance: Callable[[int], None]) -> int:
    """Check every tensor and return how many there are; `advance` is called for each."""
    checked = 0
    with Archive(source, allow_video=allow_video) as archive:
        for _ in verify(archive, deep=deep):
            advance(1)
            checked += 1
    return checked


def _only(pieces: list[Piece]) -> Piece:
    if len(pieces) != 1:
        raise UsageFault(f"{len(pieces)} tensors do not go into one .npy; expected --tensor NAME")
    return pieces[0]


def sweep_path(source: Path, *, codecs: str, rates: str, trellis: int, depth: int, jobs: int) -> Iterator[SweepLine]:
    """Every codec of a,b,c at every rate on an input. Raises UsageFault for a name or a number that is none."""
    names = parse_list(codecs)
    known = [*ENGINES, "rtn", "tq"]
    if unknown := next((name for name in names if name not in known), None):
        raise UsageFault(f"--codec {unknown!r}; expected some of {', '.join(known)}")
    try:
        wanted = [check_bits(float(rate)) for rate in parse_list(rates)]
    except ValueError as error:
        raise UsageFault(f"--bits {rates!r}: {error}") from error
    for name in names:
        EncodeRequest(bits=1.0, codec=name, trellis=trellis).check_engine()
    goal = EncodeRequest(trellis=trellis, video=VideoSettings(depth), jobs=jobs).goal()
    yield from sweep(open_input(source).tensors, names, wanted, goal)


def evaluate(
    source: Path, original: Path, *, text: Path | None, tokens: int, allow_video: bool, advance: Callable[[int], None]
) -> tuple[list[TensorError], ModelScore | None]:
    """Compare tensors, and with a text the predictions of both models."""
    original = open_input(original).path
    with Archive(source, allow_video=allow_video) as archive:
        errors = list(compare_tensors(archive, open_input(original).tensors))
    if text is None:
        return errors, None
    from llmsys.compress.codec import load_model
    from llmsys.compress.evaluation import compare_models, text_ids
    from llmsys.compress.original_model import load_original

    before = load_original(original)
    return errors, compare_models(before, load_model(source), text_ids(original, text, tokens), advance=advance)


def calibrate_path(
    model: Path, text: Path, out: Path, *, tokens: int, seed: int, advance: Callable[[int], None]
) -> "CalibrationLine":
    """Measure a model on a text and write the moments to `out`."""
    from llmsys.compress.calibration import calibrate

    statistics, line = calibrate(open_input(model).path, text, tokens=tokens, seed=seed, advance=advance)
    statistics.write(out)
    return line
