"""Verbs of `llmsys vindex` that read: search, export, and import, which reads what others hold."""

from pathlib import Path
from typing import Annotated

import typer

from llmsys.cli._options import Device, Json, Quiet, Seed, Tenant, Threads, one_of
from llmsys.cli._render import note, report
from llmsys.cli._streams import records_out

__all__ = ["VERBS"]

FOREIGN = ("parquet", "lancedb", "qdrant", "milvus", "pgvector", "faiss")
METRICS = ("l2", "ip", "cosine")

Readable = Annotated[Path, typer.Argument(metavar="IDX", help="Directory that `vindex build` wrote.")]


def search(
    index: Readable,
    queries: Annotated[
        str, typer.Option("--queries", metavar="F", help="Queries: JSON Lines, .npy, .fvecs; - is stdin.")
    ] = "-",
    *,
    tenant: Tenant = None,
    tenants: Annotated[
        str | None, typer.Option("--tenants", metavar="F", help="A tenant for each query: JSON list or lines.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Search what anybody may see.")] = False,
    where: Annotated[
        str | None, typer.Option("--where", metavar="E", help="Labels with AND, OR, NOT, ANY(), ALL(), AT_LEAST(n; ).")
    ] = None,
    k: Annotated[int, typer.Option("-k", "--top-k", min=1, max=10_000, help="Neighbours per query.")] = 10,
    recall: Annotated[
        float, typer.Option("--recall", min=0.01, max=1, help="Recall wanted; exact where `tune` promised none.")
    ] = 0.95,
    exact: Annotated[bool, typer.Option("--exact", help="Compare every vector that the tenant sees.")] = False,
    effort: Annotated[
        int | None, typer.Option("--effort", min=0, max=10, help="Fixed effort in place of --recall: 0 is fastest.")
    ] = None,
    max_distance: Annotated[
        float | None, typer.Option("--max-distance", help="Nothing farther (l2), or less similar (ip, cosine).")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Write ids.npy and distances.npy there, no records.")
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Add how the answer was found.")] = False,
    follow: Annotated[
        bool, typer.Option("--follow", help="See what others write before each query; answers carry their seq.")
    ] = False,
    threads: Threads = 1,
    device: Device = "cpu",
    quiet: Quiet = False,
) -> None:
    """Print the k nearest vectors that the tenant may see, nearest first.

    A distance is squared under l2; under ip and cosine it is the similarity.
    Example: llmsys vindex search idx --queries q.npy --tenant acme -k 10 > hits.jsonl
    """
    from llmsys.vindex import Index
    from llmsys.vindex.asking import Asker, answer, chosen_effort, chosen_threads, write_answers

    opened = Index.open(index, device=device)
    if opened.torn_bytes:
        note(f"{opened.torn_bytes} bytes of an unfinished change end the log; they are left out")
    how = chosen_effort(opened, k=k, recall=recall, exact=exact, effort=effort, warn=note)
    asker = Asker(
        opened, k, where, None if exact else recall, how, explain, chosen_threads(threads), max_distance, follow
    )
    if out is not None:
        note(f"{write_answers(asker, queries, out, tenant=tenant, tenants=tenants, everything=everything)} queries")
        return
    with records_out(flush_each=queries == "-") as stream:
        for hit in answer(asker, queries, tenant=tenant, tenants=tenants, everything=everything):
            stream.write(hit)


def export(
    index: Readable,
    *,
    to: Annotated[
        str,
        typer.Option(
            "--to",
            help="jsonl; npy, fvecs: vectors with ids; parquet, lancedb, qdrant, milvus, pgvector, faiss.",
            callback=one_of("jsonl", "npy", "fvecs", *FOREIGN),
        ),
    ] = "jsonl",
    output: Annotated[
        str, typer.Option("-o", "--output", metavar="DEST", help="File of jsonl (- is stdout), directory of others.")
    ] = "-",
    tenant: Tenant = None,
    ids: Annotated[
        str | None, typer.Option("--ids", metavar="F", help="Only these ids, one per line; - is stdin.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Write vectors, ids and tenants in the order of ids.

    Example: llmsys vindex export idx --tenant acme --to npy -o acme
    """
    from llmsys.vindex import Index
    from llmsys.vindex.exchange import content_of, export_arrays, export_lines
    from llmsys.vindex.interchange import write
    from llmsys.vindex.sources import listed_ids

    if to != "jsonl" and output == "-":
        raise typer.BadParameter(f"--to {to} writes files; -o names their directory")
    opened = Index.open(index)
    only = None if ids is None else listed_ids(ids, opened)
    if to in FOREIGN:
        content = content_of(opened, tenant, only)
        write(to, content, Path(output))
        note(f"{len(content.ids)} vectors")
        return
    if to != "jsonl":
        note(f"{export_arrays(opened, Path(output), tenant, only, kind=to)} vectors")
        return
    with records_out(output) as out:
        for record in export_lines(opened, tenant, only):
            out.write(record)


def import_(
    index: Annotated[Path, typer.Argument(metavar="IDX", help="Directory to make.")],
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Directory that `vindex export` wrote, or its file.")],
    *,
    from_: Annotated[
        str,
        typer.Option("--from", help="parquet, lancedb, qdrant, milvus, pgvector or faiss.", callback=one_of(*FOREIGN)),
    ],
    metric: Annotated[
        str | None,
        typer.Option("--metric", help="l2, ip or cosine; default: what the files say.", callback=one_of(*METRICS)),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an index that is there.")] = False,
    seed: Seed = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make an index of what another store's files hold: ids, vectors, tenants.

    Example: llmsys vindex import idx hits --from parquet
    """
    from llmsys.vindex import Index
    from llmsys.vindex.interchange import read

    found = read(from_, source)
    kind = metric or found.metric or "cosine"
    with Index.build(
        index, found.vectors, found.ids, found.tenants, metric=kind, seed=seed, overwrite=overwrite
    ) as made:
        summary = made.summary()
    report(summary, [summary], json=json)


VERBS = (search, export, import_)
