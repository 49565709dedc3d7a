"""`llmsys vindex`: options in, `llmsys.vindex` called, records out."""

from pathlib import Path
from typing import Annotated

import typer

from llmsys.cli import _vindex_bench, _vindex_changes, _vindex_search, _vindex_serve, _vindex_upkeep
from llmsys.cli._options import Json, Quiet, Seed, one_of
from llmsys.cli._render import report

__all__ = ["app"]

app = typer.Typer(help="One in-memory vector index for many tenants.", rich_markup_mode=None, no_args_is_help=True)


@app.command()
def build(
    index: Annotated[Path, typer.Argument(metavar="IDX", help="Directory to make.")],
    *,
    vectors: Annotated[
        str,
        typer.Option(
            "--vectors",
            metavar="F",
            help="Vectors: .npy, .fvecs, .bvecs, .safetensors, .parquet, .arrow or JSON Lines.",
        ),
    ],
    ids: Annotated[
        Path | None, typer.Option("--ids", metavar="F", help="Ids: .npy or one per line; default: row numbers.")
    ] = None,
    access: Annotated[
        Path | None, typer.Option("--access", metavar="F", help='Who sees what: lines {"id","tenants"}, or CSR .npz.')
    ] = None,
    metric: Annotated[
        str, typer.Option("--metric", help="l2, ip or cosine.", callback=one_of("l2", "ip", "cosine"))
    ] = "cosine",
    dtype: Annotated[
        str,
        typer.Option("--dtype", help="Numbers kept: f32, or f16 in half the memory.", callback=one_of("f32", "f16")),
    ] = "f32",
    branching: Annotated[int, typer.Option("--branching", min=2, help="Children of a node of the tree.")] = 16,
    max_leaf: Annotated[int, typer.Option("--max-leaf", min=1, help="Vectors that need no further split.")] = 128,
    max_shortlist: Annotated[
        int, typer.Option("--max-shortlist", min=1, help="Vectors in a leaf of a tenant's tree.")
    ] = 128,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an index that is there.")] = False,
    seed: Seed = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make an index of vectors and of who may see them.

    Under cosine, vectors are stored with unit length.
    Example: llmsys vindex build idx --vectors docs.npy --access access.jsonl
    """
    from llmsys.vindex import Index, TreeShape
    from llmsys.vindex.sources import read_collection

    read = read_collection(vectors, ids, access)
    shape = TreeShape(branching, max_leaf, max_shortlist)
    made = Index.build(
        *(index, read.vectors, read.ids, read.access),
        metric=metric,
        dtype=dtype,
        shape=shape,
        seed=seed,
        overwrite=overwrite,
    )
    with made:
        summary = made.summary()
    report(summary, [summary], json=json)


VERBS = (
    *_vindex_changes.VERBS,
    *_vindex_search.VERBS,
    *_vindex_upkeep.VERBS,
    *_vindex_serve.VERBS,
    *_vindex_bench.VERBS,
)

for verb in VERBS:
    app.command(verb.__name__.replace("_", "-").removesuffix("-"))(verb)
