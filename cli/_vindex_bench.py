"""Verbs of `llmsys vindex` that measure: bench, and make-workload for it."""

from pathlib import Path
from typing import Annotated

import typer

from llmsys.cli._options import Json, Plot, Quiet, Seed
from llmsys.cli._render import note, report, table

__all__ = ["VERBS"]


def make_workload(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Directory to make.")],
    *,
    vectors: Annotated[
        Path | None, typer.Option("--vectors", metavar="F", help="Points to take; default: GloVe's, from its package.")
    ] = None,
    n: Annotated[int, typer.Option("--n", min=1, help="Vectors.")] = 200_000,
    tenants: Annotated[int, typer.Option("--tenants", min=1, help="Tenants.")] = 1000,
    zipf: Annotated[float, typer.Option("--zipf", min=0.0, help="Exponent of the tenants' sizes.")] = 0.9,
    sharing: Annotated[float, typer.Option("--sharing", min=0.1, help="Tenants per vector.")] = 10.0,
    queries: Annotated[int, typer.Option("--queries", min=1, help="Queries, from points behind the vectors.")] = 1500,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Write a workload of many tenants over real vectors, for `bench --workload DIR`.

    Example: llmsys vindex make-workload glove-small --n 20000 --tenants 200
    """
    from llmsys.artifacts import read_vectors
    from llmsys.vindex.workload import WorkloadShape, glove_vectors, write_workload
    from llmsys.vindex.workload import make_workload as make

    points = glove_vectors() if vectors is None else read_vectors(vectors).values
    work = make(points, WorkloadShape(n, tenants, zipf, sharing, queries), seed)
    write_workload(directory, work)
    note(f"{len(work.vectors)} vectors, {len(work.queries)} queries")


def bench(
    *,
    workload: Annotated[
        str | None, typer.Option("--workload", metavar="W", help="A directory of make-workload, or glove.")
    ] = None,
    vectors: Annotated[
        Path | None, typer.Option("--vectors", metavar="F", help="In place of a workload: vectors, as in `build`.")
    ] = None,
    access: Annotated[
        Path | None, typer.Option("--access", metavar="F", help='Who sees them: lines {"id","tenants"}.')
    ] = None,
    held_out: Annotated[int, typer.Option("--held-out", min=1, help="Last rows that become queries.")] = 500,
    peer: Annotated[
        list[str] | None, typer.Option("--peer", metavar="NAME", help="A system to compare; may repeat; default all.")
    ] = None,
    pg: Annotated[
        str | None, typer.Option("--pg", metavar="DSN", help="PostgreSQL with pgvector, in which a table is made.")
    ] = None,
    k: Annotated[int, typer.Option("-k", "--top-k", min=1, help="Neighbours per query.")] = 10,
    plot: Plot = None,
    seed: Seed = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure the index beside its peers under cosine: recall, speed and memory side by side, and the stated targets.

    Set OMP_NUM_THREADS=1 for figures of one thread.
    Example: llmsys vindex bench --vectors docs.npy --access access.jsonl
    """
    from msgspec import to_builtins

    from llmsys.cli._plot import Figure, Line, draw
    from llmsys.vindex.bench import PEER_NAMES, compare, pareto, shown
    from llmsys.vindex.workload import chosen_workload

    work = chosen_workload(workload, vectors, access, held_out=held_out)
    found = compare(work, k=k, seed=seed, peers=peer or PEER_NAMES, pg=pg, on_row=lambda row: note(row.line))
    if plot is not None:
        lines = [Line(*points) for points in pareto(found.rows)]
        draw(Figure("vindex and its peers", "recall", "microseconds per query", lines), plot)
    if not json:
        table(to_builtins(found.targets), title="targets (set for the workload glove)", stderr=True)
        for name, reason in found.missing.items():
            note(f"not compared: {name}: {reason}")
    report(to_builtins(found), shown(found.rows), title="rows", json=json)


VERBS = (make_workload, bench)
