"""Verb of `llmsys compress` that measures it beside its peers: bench."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from llmsys.cli._options import Json, Quiet, one_of
from llmsys.cli._render import note, progress, table
from llmsys.cli._streams import records_out

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["VERBS"]

JOBS = ("weights", "speed", "lossless")


def bench(
    *,
    job: Annotated[str, typer.Option("--job", help=f"One of {', '.join(JOBS)}.", callback=one_of(*JOBS))] = "weights",
    model: Annotated[
        str, typer.Option("--model", metavar="A,B", help="smollm2 or minilm, or both.")
    ] = "smollm2,minilm",
    tensor: Annotated[
        str, typer.Option("--tensor", metavar="GLOB", help="Matrices of the weights job.")
    ] = "*layer*.5.*.weight",
    bits: Annotated[str, typer.Option("--bits", metavar="B,B", help="Rates of the weights job.")] = "2,3,4",
    methods: Annotated[
        str, typer.Option("--methods", metavar="A,B", help="Peers of the weights job; all if empty.")
    ] = "",
    megabytes: Annotated[float, typer.Option("--mb", min=0.1, help="Workload of speed and lossless, as bf16.")] = 8.0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure codecs and peers on real weights: rate against error, speed on one thread, or lossless size.

    gap_db is the distance to the Gaussian bound; a peer that is not installed is named and skipped.
    Example: llmsys compress bench --job weights --model smollm2 --bits 2,3
    """
    from llmsys.compress import bench_jobs

    told = []
    with records_out(flush_each=True) as out, progress("rows") as advance:
        for row in bench_jobs.rows_of(
            job, models=model, pattern=tensor, rates=bits, methods=methods, megabytes=megabytes
        ):
            advance(1)
            if isinstance(row, str):
                note(f"skipped: {row}")
                continue
            out.write(row)
            told.append(row)
        summary = bench_jobs.summary_of(job, told)
        for figure in summary:
            out.write(figure)
    if not json and not sys.stdout.isatty():
        _draw(summary or told)


def _draw(rows: "Iterable[object]") -> None:
    """One table per kind of row, on stderr."""
    kinds: dict[type, list[dict[str, object]]] = {}
    for row in rows:
        kinds.setdefault(type(row), []).append({name: getattr(row, name) for name in row.__struct_fields__})  # type: ignore[attr-defined]
    for found in kinds.values():
        table(found, stderr=True)  # type: ignore[arg-type]


VERBS = (bench,)
