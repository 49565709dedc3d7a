"""Every option that more than one command takes, defined once: name, help and check.

Knows no command. A verb writes `device: Device = "auto"` and gets the same option as its neighbours.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from llmsys.cli._render import be_quiet, use_color

__all__ = [
    "ChromeTrace",
    "Color",
    "DType",
    "Device",
    "Json",
    "OnError",
    "Plot",
    "Quiet",
    "Seed",
    "Tenant",
    "Threads",
    "one_of",
]

DEVICE_SHAPE = "auto, cpu, cuda or cuda:N"
PLOT_ENDINGS = (".png", ".svg", ".html")


def one_of(*allowed: str) -> Callable[[str | None], str | None]:
    """A check that names every allowed value."""

    def check(value: str | None) -> str | None:
        if value is not None and value not in allowed:
            raise typer.BadParameter(f"{value!r} is not one of {', '.join(allowed)}")
        return value

    return check


def _check_device(value: str) -> str:
    known = value in ("auto", "cpu", "cuda") or (value.startswith("cuda:") and value[5:].isdigit())
    if not known:
        raise typer.BadParameter(f"{value!r} is not {DEVICE_SHAPE}")
    return value


def _check_plot(value: Path | None) -> Path | None:
    if value is not None and value.suffix not in PLOT_ENDINGS:
        raise typer.BadParameter(f"{value} does not end in {', '.join(PLOT_ENDINGS)}")
    return value


Device = Annotated[str, typer.Option("--device", help=f"Where to compute: {DEVICE_SHAPE}.", callback=_check_device)]
DType = Annotated[
    str,
    typer.Option(
        "--dtype",
        help="Number format of weights and activations: auto, float32, bfloat16 or float16.",
        callback=one_of("auto", "float32", "bfloat16", "float16"),
    ),
]
Threads = Annotated[int, typer.Option("--threads", min=0, help="CPU threads; 0 takes all that the process may use.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of everything random in this run.")]
OnError = Annotated[
    str,
    typer.Option("--on-error", help="A bad record among good ones: fail or skip.", callback=one_of("fail", "skip")),
]
Tenant = Annotated[str | None, typer.Option("--tenant", help="Act for this tenant.")]
Json = Annotated[bool, typer.Option("--json", help="Print the summary as JSON in place of a table.")]
Plot = Annotated[
    Path | None,
    typer.Option("--plot", metavar="FILE", help="Draw into FILE.png, .svg or .html.", callback=_check_plot),
]
ChromeTrace = Annotated[
    Path | None,
    typer.Option("--chrome-trace", metavar="FILE", help="Write the timeline for Perfetto or chrome://tracing."),
]
Quiet = Annotated[
    bool, typer.Option("-q", "--quiet", help="Nothing on stderr but errors.", callback=be_quiet, expose_value=False)
]
Color = Annotated[
    str,
    typer.Option("--color", help="Colour: auto, always or never.", callback=use_color, expose_value=False),
]
