"""Options that more than one verb of `llmsys compress` takes, and what they check."""

from typing import Annotated

import typer

__all__ = ["AllowVideo", "Jobs", "MemorySize", "parse_size"]

UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def parse_size(text: str | None) -> int | None:
    """Bytes of `1.2GiB`, `500MB` or `4096`."""
    if text is None:
        return None
    number = text.rstrip("KMGiIBb")
    unit = text[len(number) :].upper()
    try:
        return int(float(number) * UNITS[unit])
    except (ValueError, KeyError, OverflowError):
        raise typer.BadParameter(f"{text!r} is no size; expected such as 1.2GiB, 500MB or 4096") from None


def _check_size(text: str) -> str:
    parse_size(text)
    return text


AllowVideo = Annotated[bool, typer.Option("--allow-video", help="Decode video streams too; only from who you trust.")]
Jobs = Annotated[int, typer.Option("--jobs", min=0, help="Tensors or chunks coded at once; 0: one per usable CPU.")]
MemorySize = Annotated[
    str,
    typer.Option("--memory", metavar="SIZE", help="Most that one tensor may claim.", callback=_check_size),
]
