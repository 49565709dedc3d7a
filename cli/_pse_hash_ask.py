"""Verbs of `llmsys pse-hash` that ask: query, score and compare."""

from pathlib import Path
from typing import Annotated

import typer

from llmsys.cli._options import Json, OnError, Quiet, Seed, one_of
from llmsys.cli._render import note, report
from llmsys.cli._streams import records_out

__all__ = ["VERBS", "Interval", "Sketch"]

Sketch = Annotated[Path, typer.Argument(metavar="DIR", help="Directory that `pse-hash build` wrote.")]
Interval = Annotated[
    str,
    typer.Option(
        "--ci", help="rigorous, or clt: cheaper, covers less than it says.", callback=one_of("rigorous", "clt")
    ),
]
Method = Annotated[
    str | None,
    typer.Option(
        "--method",
        help="auto, exact, rs, strat, deann or hbe; default: the sketch's.",
        callback=one_of("auto", "exact", "rs", "strat", "deann", "hbe"),
    ),
]


def query(
    sketch: Sketch,
    queries: Annotated[
        str, typer.Argument(metavar="[FILE|-]", help='Queries: .npy, .fvecs, or lines {"id","x"}; - is stdin.')
    ] = "-",
    *,
    eps: Annotated[float | None, typer.Option("--eps", help="Relative error; default: the sketch's.")] = None,
    delta: Annotated[float | None, typer.Option("--delta", help="Share of misses; default: the sketch's.")] = None,
    method: Method = None,
    ci: Interval = "rigorous",
    loo: Annotated[
        str | None, typer.Option("--loo", metavar="FIELD", help="Leave out the point whose id this field names.")
    ] = None,
    sums: Annotated[bool, typer.Option("--sum", help="Sums in place of means.")] = False,
    logs: Annotated[bool, typer.Option("--log", help="Natural logarithms: these never under- or overflow.")] = False,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Queries answered together.")] = 1024,
    flush: Annotated[bool, typer.Option("--flush", help="Answer each line before the next one is read.")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Say on stderr what each method would cost.")] = False,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="Seed of the coins, to repeat a run; default: the system's.")
    ] = None,
    on_error: OnError = "fail",
    quiet: Quiet = False,
) -> None:
    """Print the mean kernel value at each query, with an interval.

    Example: llmsys pse-hash query corpus.pse questions.jsonl --log > answers.jsonl
    """
    from llmsys.pse_hash.asking import Asker, Form, answer

    asker = Asker(sketch, seed=seed, eps=eps, delta=delta, method=method, ci=ci, explain=note if explain else None)
    if asker.torn_bytes:
        note(f"{asker.torn_bytes} bytes of an unfinished update end the log; they are left out")
    found = answer(
        asker,
        queries,
        form=Form(sums, logs),
        batch=1 if flush else batch,
        loo=loo,
        on_error=on_error,
        on_skip=lambda fault: note(f"skipped: {fault}"),
    )
    with records_out(flush_each=flush) as out:
        for record in found:
            out.write(record)


def score(
    sketch: Sketch,
    *,
    ci: Interval = "rigorous",
    quantile: Annotated[
        float | None, typer.Option("--quantile", min=0, max=1, help="Only points whose score is at or below this one.")
    ] = None,
    prune: Annotated[
        float | None, typer.Option("--prune", metavar="FRACTION", min=0, max=1, help="Print the ids left without it.")
    ] = None,
    keep: Annotated[
        str,
        typer.Option(
            "--keep",
            help="With --prune: keep low or high scores, or stratified: as many of each tenth.",
            callback=one_of("low", "high", "stratified"),
        ),
    ] = "stratified",
    duplicates: Annotated[
        float | None,
        typer.Option("--duplicates", metavar="S", min=0, help="Add a point of kernel value >= S."),
    ] = None,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Score every point against all others: densities, duplicates, or the ids that a pruned corpus keeps.

    Example: llmsys pse-hash score corpus.pse --prune 0.2 --keep stratified > kept.jsonl
    """
    from llmsys.pse_hash.files import open_sketch
    from llmsys.pse_hash.scoring import score_records

    opened = open_sketch(sketch).sketch
    found = score_records(opened, ci=ci, quantile=quantile, prune=prune, keep=keep, similarity=duplicates, seed=seed)
    with records_out() as out:
        for record in found:
            out.write(record)


def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="Directory of a sketch.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Directory of another, of the same kernel.")],
    *,
    permutations: Annotated[int, typer.Option("--permutations", min=1, help="Divisions drawn for the p-value.")] = 500,
    seed: Seed = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Test whether two sketches hold points of one distribution: squared MMD, p-value, the ids behind it.

    Example: llmsys pse-hash compare lastweek.pse thisweek.pse --permutations 500
    """
    from llmsys.pse_hash.drift import compare as compared
    from llmsys.pse_hash.files import open_sketch

    sketches = (open_sketch(place).sketch for place in (first, second))
    found = compared(*sketches, permutations=permutations, seed=seed)
    report(found, [{"mmd2": found.mmd2, "p_value": found.p_value, "permutations": permutations}], json=json)


VERBS = (query, score, compare)
