"""Verbs of `llmsys pse-hash` that change or examine a sketch: update, stats and check."""

from pathlib import Path
from typing import Annotated

import typer

from llmsys.cli._options import Json, OnError, Quiet, Seed, one_of
from llmsys.cli._pse_hash_ask import Interval, Sketch
from llmsys.cli._render import note, report
from llmsys.cli._streams import records_out

__all__ = ["VERBS"]


def update(
    sketch: Sketch,
    updates: Annotated[
        str, typer.Argument(metavar="[FILE|-]", help='Lines {"op","id","x","w"}; op: insert, delete, replace.')
    ] = "-",
    *,
    insert: Annotated[
        str | None, typer.Option("--insert", metavar="FILE", help="Vectors to insert, in place of lines.")
    ] = None,
    ids: Annotated[Path | None, typer.Option("--ids", metavar="FILE", help="Their ids: .npy or one per line.")] = None,
    fsync: Annotated[
        str,
        typer.Option(
            "--fsync",
            help="Make durable every record, each batch of 256, or at the end.",
            callback=one_of("every", "batch", "end"),
        ),
    ] = "batch",
    ack: Annotated[bool, typer.Option("--ack", help="Print each record once it is durable.")] = False,
    on_error: OnError = "fail",
    quiet: Quiet = False,
) -> None:
    """Insert, delete and replace points durably; a kill leaves a prefix of the stream, never half a record.

    Example: tail -F updates.jsonl | llmsys pse-hash update corpus.pse -
    """
    from llmsys.pse_hash.updating import Writer, bulk_updates, stream_updates

    with records_out(flush_each=ack) as out:
        with Writer(sketch, fsync=fsync) as writer:
            found = (
                stream_updates(writer, updates, on_error=on_error, on_skip=lambda fault: note(f"skipped: {fault}"))
                if insert is None
                else bulk_updates(writer, insert, ids)
            )
            for durable in found:
                if ack:
                    out.write({"op": durable.op, "id": durable.id})
        out.write(writer.tally)


def stats(sketch: Sketch, *, json: Json = False, quiet: Quiet = False) -> None:
    """Say what a sketch holds: points, kernel, bytes, log, robustness and its budget, and the last check.

    Example: llmsys pse-hash stats corpus.pse --json
    """
    from llmsys.pse_hash.statistics import statistics

    summary = statistics(sketch)
    report(summary, [{"quantity": name, "value": value} for name, value in summary.items()], json=json)


def check(
    sketch: Sketch,
    *,
    queries: Annotated[int, typer.Option("--queries", min=1, help="Queries near the data to ask.")] = 200,
    ci: Interval = "rigorous",
    seed: Seed = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Verify checksums and structure, then answers against exact sums; exit 1 if the guarantee is refuted.

    Example: llmsys pse-hash check corpus.pse --queries 200
    """
    from llmsys.pse_hash.checking import check as checked
    from llmsys.pse_hash.files import open_sketch, remember

    found = checked(open_sketch(sketch, verify=True).sketch, queries=queries, seed=seed, ci=ci)
    remember(sketch, found.record())
    report(found, [{"quantity": name, "value": value} for name, value in found.record().items()], json=json)
    if found.refuted:
        note(f"{found.queries - found.within_eps} of {found.queries} answers missed eps; delta allows {found.delta:g}")
        raise typer.Exit(1)


VERBS = (update, stats, check)
