"""Verbs of `llmsys vindex` that change an index: add, delete, grant, revoke, drop-tenant, apply."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from llmsys.cli._options import Json, OnError, Quiet, one_of
from llmsys.cli._render import note, report
from llmsys.cli._streams import records_out

__all__ = ["VERBS", "Wait"]

Writable = Annotated[Path, typer.Argument(metavar="IDX", help="Directory that `vindex build` wrote.")]
Ids = Annotated[list[str], typer.Argument(metavar="ID...|-", help="Ids, or - for one per line on stdin.")]
Wait = Annotated[float, typer.Option("--wait", min=0, metavar="SECONDS", help="Wait so long for another writer.")]
ForTenant = Annotated[str, typer.Option("--tenant", help="Whose access changes.")]


def add(
    index: Writable,
    vectors: Annotated[
        str,
        typer.Argument(
            metavar="[F|-]", help="Vectors: .npy, .fvecs, .bvecs, .safetensors, .parquet, .arrow or JSON Lines."
        ),
    ] = "-",
    *,
    ids: Annotated[Path | None, typer.Option("--ids", metavar="F", help="Ids: .npy or one per line.")] = None,
    access: Annotated[
        Path | None, typer.Option("--access", metavar="F", help='Who sees what: lines {"id","tenants"}, or CSR .npz.')
    ] = None,
    upsert: Annotated[
        bool, typer.Option("--upsert", help="Replace ids that are there; tenants stay if unsaid.")
    ] = False,
    wait: Wait = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Add vectors that have ids; all of them or, on a fault, none.

    Example: llmsys vindex add idx more.npy --ids more-ids.npy --access more-access.jsonl
    """
    from llmsys.vindex import Index
    from llmsys.vindex.sources import read_collection, required_ids

    read = read_collection(vectors, ids, access)
    with Index.open(index, "w", wait_s=wait) as opened:
        changed = opened.add(read.vectors, required_ids(read, vectors), read.access, upsert=upsert)
    report(changed, [changed], json=json)


def delete(
    index: Writable,
    ids: Ids,
    *,
    on_error: OnError = "fail",
    wait: Wait = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Delete vectors for everybody.

    Example: llmsys vindex delete idx 17 18 19
    """
    from llmsys.vindex import Index
    from llmsys.vindex.sources import typed_ids

    with Index.open(index, "w", wait_s=wait) as opened:
        changed = opened.delete(typed_ids(ids, opened), skip_missing=on_error == "skip")
    report(changed, [changed], json=json)


def grant(
    index: Writable,
    ids: Ids,
    *,
    tenant: ForTenant,
    on_error: OnError = "fail",
    wait: Wait = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Let a tenant see vectors; granting twice is no error.

    Example: llmsys vindex grant idx --tenant acme 17 18 19
    """
    _change("grant", index, ids, tenant, on_error=on_error, wait=wait, json=json)


def revoke(
    index: Writable,
    ids: Ids,
    *,
    tenant: ForTenant,
    on_error: OnError = "fail",
    wait: Wait = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Let a tenant see vectors no more; no search that starts afterwards returns them.

    Example: llmsys vindex revoke idx --tenant acme 17
    """
    _change("revoke", index, ids, tenant, on_error=on_error, wait=wait, json=json)


def _change(
    what: Literal["grant", "revoke"],
    index: Path,
    ids: list[str],
    tenant: str,
    *,
    on_error: str,
    wait: float,
    json: bool,
) -> None:
    """Grant or revoke, and say what changed."""
    from llmsys.vindex import Index
    from llmsys.vindex.sources import typed_ids

    with Index.open(index, "w", wait_s=wait) as opened:
        act = opened.grant if what == "grant" else opened.revoke
        changed = act(typed_ids(ids, opened), tenant, skip_missing=on_error == "skip")
    report(changed, [changed], json=json)


def drop_tenant(
    index: Writable,
    tenant: Annotated[str, typer.Argument(metavar="T", help="The tenant.")],
    *,
    orphans: Annotated[
        str,
        typer.Option("--orphans", help="What nobody else sees: keep or delete.", callback=one_of("keep", "delete")),
    ] = "keep",
    wait: Wait = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Revoke everything from a tenant; the vectors stay, unless orphans are to go.

    Example: llmsys vindex drop-tenant idx acme
    """
    from llmsys.vindex import Index

    with Index.open(index, "w", wait_s=wait) as opened:
        changed = opened.drop_tenant(tenant, orphans="delete" if orphans == "delete" else "keep")
    report(changed, [changed], json=json)


def apply(
    index: Writable,
    changes: Annotated[str, typer.Argument(metavar="[FILE|-]", help="Changes, one JSON line each; - is stdin.")] = "-",
    *,
    ack: Annotated[
        str,
        typer.Option(
            "--ack", help="every: a line for each change; batch: one for each sync.", callback=one_of("every", "batch")
        ),
    ] = "every",
    on_error: OnError = "fail",
    wait: Wait = 0,
    quiet: Quiet = False,
) -> None:
    """Apply a stream of changes and acknowledge them once they are durable.

    A line is {"op","id" or "ids","vector","tenant" or "tenants","ref"}; op is add, delete, grant, revoke, drop_tenant.
    Example: tail -F changes.jsonl | llmsys vindex apply idx -
    """
    from llmsys.vindex import Index
    from llmsys.vindex.changes import apply_changes

    skip = None if on_error == "fail" else lambda fault: note(f"skipped: {fault}")
    with Index.open(index, "w", wait_s=wait) as opened, records_out(flush_each=True) as out:
        for acknowledged in apply_changes(opened, changes, each=ack == "every", on_skip=skip):
            out.write(acknowledged)


VERBS = (add, delete, grant, revoke, drop_tenant, apply)
