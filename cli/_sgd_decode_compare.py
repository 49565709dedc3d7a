"""`llmsys sgd-decode compare`: the same questions in several modes, side by side."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmsys.cli._options import Device, DType, Json, Quiet, Seed, one_of
from llmsys.cli._render import note, progress, report, table
from llmsys.cli._sgd_decode_options import AnswerTokens, Grammar, MaxNodes, Model, NodeTokens, Slots

if TYPE_CHECKING:
    from llmsys.sgd_decode import Backend
    from llmsys.sgd_decode.comparison import Comparison, Interval

__all__ = ["compare"]

Row = dict[str, str | int | float | bool | None]

Source = Annotated[
    str, typer.Argument(metavar="FILE", help="Questions as in `run`, or with --rejudge what --save wrote; - is stdin.")
]
Judge = Annotated[
    str,
    typer.Option(
        "--judge",
        metavar="HOW",
        help="metrics (form and likelihood of texts), none, or a model that compares answers, as in --large.",
    ),
]
Order = Annotated[
    str,
    typer.Option(
        "--order", help="Show a judge each pair in both orders, or only the first.", callback=one_of("both", "first")
    ),
]
Save = Annotated[Path | None, typer.Option("--save", metavar="FILE", help="Keep answers and verdicts, for --rejudge.")]


def compare(
    source: Source = "-",
    *,
    modes: Annotated[
        str, typer.Option("--modes", help="Modes, comma-separated; the first is what others are beside.")
    ] = "ar,sot,sgd-v1,sgd",
    large: Model = "embedded",
    judge: Judge = "metrics",
    order: Order = "both",
    repeat: Annotated[int, typer.Option("--repeat", min=1, help="Answers per question and mode.")] = 1,
    save: Save = None,
    rejudge: Annotated[
        bool, typer.Option("--rejudge", help="Answer nothing: FILE holds answers that were kept.")
    ] = False,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Take the first so many questions.")] = None,
    max_batch: Slots = 8,
    max_nodes: MaxNodes = 10,
    node_tokens: NodeTokens = None,
    answer_tokens: AnswerTokens = 1024,
    grammar: Grammar = True,
    device: Device = "auto",
    dtype: DType = "auto",
    seed: Seed = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Answer the same questions in several modes, one at a time, and print speed, cost and form with 95 % intervals.

    A shorter answer is not a speed-up: rates are compared, per token. Only a judge says which answer is better.

    Example: llmsys sgd-decode compare questions.jsonl --modes ar,sot,sgd --judge http://judge:8000/v1#m --save a.jsonl
    """
    from llmsys.sgd_decode import DecodeSettings, open_backend, read_questions, with_step_time
    from llmsys.sgd_decode import comparison as library

    def opened(model: str) -> "Backend":
        return open_backend(model, slots=max_batch, grammar=grammar, device=device, dtype=dtype, seed=seed)

    backend = None if rejudge else opened(large)
    measures = library.measures_of(judge, backend, opened, both_orders=order == "both")
    if backend is None:
        _print(library.compare_saved(Path(source), measures, save=save, seed=seed), json=json)
        return
    asked = list(read_questions(source))[:limit]
    settings = [
        with_step_time(
            DecodeSettings(
                mode=mode, grammar=grammar, max_nodes=max_nodes, node_tokens=node_tokens,
                answer_tokens=answer_tokens, seed=seed,
            ),
            backend,
        )
        for mode in modes.split(",")
    ]  # fmt: skip
    with progress("answers", len(asked) * len(settings) * repeat) as advance:
        found = library.compare(
            asked, backend, settings, measures, repeat=repeat, save=save, seed=seed, on_answer=lambda: advance(1)
        )
    _print(found, json=json)


def _print(found: "Comparison", *, json: bool) -> None:
    """Speed as the summary's table; what else was measured as tables and one line on stderr."""
    rows: list[Row] = [
        {
            "mode": row.mode,
            "graphs": f"{row.graphs}/{row.trials}",
            "mean s": row.mean_s,
            "tokens": row.answer_tokens,
            "billed": row.billed_tokens,
            "cached": row.prefill_saved,
            "tok/s": row.tok_s,
            "speed-up": _said(row.speed_up),
            "faults": row.faults,
        }
        for row in found.modes
    ]
    report(asdict(found), rows, json=json)
    if json:
        return
    measured = [
        {
            "mode": form.mode,
            "redundancy": _said(form.redundancy),
            "distinct 4-grams": _said(form.distinct),
            "coverage": _said(form.coverage),
            "contradictions": _said(form.contradictions),
        }
        for form in found.structure
    ]
    likely = [
        {"mode": fit.mode, "nats per token": _said(fit.whole), "by forwarding": _said(fit.forwarding)}
        for fit in found.fit
    ]
    wins: list[Row] = [
        {
            "mode": row.mode,
            "criterion": row.criterion,
            "n": row.n,
            "wins": row.wins,
            "losses": row.losses,
            "net": _said(row.net),
            "wins of decided": f"[{row.win_low:.2f}, {row.win_high:.2f}]",
            "unclear": row.unclear,
        }
        for row in found.wins
    ]
    table(measured, stderr=True)
    table(likely, stderr=True)
    table(wins, stderr=True)
    ran = ", ".join(found.ran) or "nothing"
    note(f"beside {found.modes[0].mode}, [95 % intervals over questions]; of quality was measured: {ran}")


def _said(interval: "Interval | None") -> str:
    """A figure with its interval."""
    if interval is None:
        return "-"
    if interval.low is None:
        return f"{interval.value:.3g}"
    return f"{interval.value:.3g} [{interval.low:.3g}, {interval.high:.3g}]"
