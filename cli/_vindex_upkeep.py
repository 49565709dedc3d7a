"""Verbs of `llmsys vindex` that look after an index: stats, check, tune, compact, snapshot."""

from pathlib import Path
from typing import Annotated

import typer

from llmsys.cli._options import Json, Quiet, Seed, Tenant
from llmsys.cli._render import note, report
from llmsys.cli._streams import records_out
from llmsys.cli._vindex_changes import Wait

__all__ = ["VERBS"]

Place = Annotated[Path, typer.Argument(metavar="IDX", help="Directory that `vindex build` wrote.")]


def stats(
    index: Place,
    *,
    tenant: Tenant = None,
    tenants: Annotated[bool, typer.Option("--tenants", help="One line for every tenant.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Print what an index holds, its trees' shape, and bytes in memory by part.

    Example: llmsys vindex stats idx --json
    """
    from llmsys.vindex import Index
    from llmsys.vindex.figures import figures, flat, tenant_figures

    opened = Index.open(index)
    if tenants:
        with records_out() as out:
            for name in opened.state.tenants():
                out.write(tenant_figures(opened, name))
    elif tenant is not None:
        found = tenant_figures(opened, tenant)
        report(found, flat(found), json=json)
    else:
        whole = figures(opened)
        report(whole, flat(whole), json=json)


def check(
    index: Place,
    *,
    deep: Annotated[bool, typer.Option("--deep", help="Compute every vector's leaf and code again.")] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="First make anew what can be; the old files stay in IDX.damaged.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check every checksum and invariant; exit 0, or 65 with the first ten faults.

    Repair never guesses who may see what: where that is damaged it changes nothing and exits with 65.
    Example: llmsys vindex check idx --deep
    """
    from msgspec import to_builtins

    from llmsys.vindex.check import check_index, refuse_faults
    from llmsys.vindex.repair import repair_index

    done = to_builtins(repair_index(index)) if repair else {}
    state, faults = check_index(index, deep=deep)
    found = {"vectors": state.store.live, "grants": state.grants(), "seq": state.seq, "faults": faults} | done
    rows = {name: len(value) if isinstance(value, list) else value for name, value in found.items()}
    for action in done.get("actions", ()):
        note(action)
    report(found, [rows], json=json)
    refuse_faults(index, faults)


def tune(
    index: Place,
    *,
    recall: Annotated[float, typer.Option("--recall", help="Recall that searches shall reach.")] = 0.95,
    k: Annotated[int, typer.Option("-k", "--top-k", min=1, help="Neighbours per query.")] = 10,
    sample: Annotated[int, typer.Option("--sample", min=1, help="Queries per class of tenant sizes.")] = 1000,
    wait: Wait = 0,
    seed: Seed = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure how far searches must go, with exact ground truth and a 95 % confidence limit, and keep it.

    Half of the queries are vectors that a tenant sees, half any others; the promise holds for queries like these.
    Example: llmsys vindex tune idx --recall 0.95
    """
    from msgspec import to_builtins

    from llmsys.vindex import Index
    from llmsys.vindex.tuning import tune as measure

    with Index.open(index, "w", wait_s=wait) as opened:
        plans = measure(opened.state, recall=recall, k=k, sample=sample, seed=seed)
        opened.keep_plans(plans)
    report(plans, [to_builtins(plan) for plan in plans], json=json)


def compact(
    index: Place,
    *,
    retrain: Annotated[bool, typer.Option("--retrain", help="Build the clustering tree anew.")] = False,
    shred: Annotated[
        bool, typer.Option("--shred", help="Overwrite deleted vectors and the log in the old files.")
    ] = False,
    wait: Wait = 0,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Rewrite an index without its log and without deleted vectors.

    Example: llmsys vindex compact idx --retrain
    """
    from llmsys.vindex import Index

    with Index.open(index, "w", wait_s=wait) as opened:
        before = opened.log_bytes
        opened.compact(retrain=retrain, seed=seed, shred=shred)
        note(f"{len(opened)} vectors; {before} bytes of log are part of the snapshot now")


def snapshot(
    index: Place,
    dest: Annotated[Path, typer.Argument(metavar="DEST", help="Directory to make.")],
    *,
    quiet: Quiet = False,
) -> None:
    """Write a consistent copy, also while another process writes.

    Example: llmsys vindex snapshot idx backup
    """
    from llmsys.vindex import Index

    opened = Index.open(index)
    opened.snapshot(dest)
    note(f"{len(opened)} vectors at seq {opened.seq}")


VERBS = (stats, check, tune, compact, snapshot)
