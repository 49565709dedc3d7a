"""`llmsys sgd-decode`: options in, `llmsys.sgd_decode` called, records out."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from llmsys.cli._options import ChromeTrace, Device, DType, Json, OnError, Quiet, Seed, one_of
from llmsys.cli._render import note, progress, report, table
from llmsys.cli._streams import records_out

__all__ = ["app"]

app = typer.Typer(
    help="Answers as dependency graphs of parts, decoded in parallel.", rich_markup_mode=None, no_args_is_help=True
)

Questions = Annotated[
    str, typer.Argument(metavar="FILE", help="OpenAI batch lines, or {id, question} lines; - is stdin.")
]
Model = Annotated[
    str,
    typer.Option(
        "--large", metavar="MODEL", help="embedded, a model directory, a .gguf file, or script:FILE of recorded texts."
    ),
]
Slots = Annotated[int, typer.Option("--max-batch", min=1, help="Texts written at once.")]
MaxNodes = Annotated[int, typer.Option("--max-nodes", min=2, help="Most parts of a plan.")]
NodeTokens = Annotated[
    int | None, typer.Option("--node-tokens", min=1, help="Most tokens of a part; by default 96 to 320 by its level.")
]
AnswerTokens = Annotated[int, typer.Option("--answer-tokens", min=1, help="Most tokens of an answer in one piece.")]
Form = one_of("text", "json", "dot", "mermaid")
Grammar = Annotated[bool, typer.Option("--grammar/--no-grammar", help="Hold the plan to its form while it is decoded.")]
Mode = Annotated[
    str, typer.Option("--mode", help="ar, sot, sgd or sgd-v1.", callback=one_of("ar", "sot", "sgd", "sgd-v1"))
]
Pipeline = Annotated[
    bool, typer.Option("--pipeline/--no-pipeline", help="Start parts while the plan is still being written.")
]


@app.command()
def run(
    questions: Questions = "-",
    *,
    mode: Mode = "sgd",
    large: Model = "embedded",
    max_batch: Slots = 8,
    max_nodes: MaxNodes = 10,
    node_tokens: NodeTokens = None,
    answer_tokens: AnswerTokens = 1024,
    pipeline: Pipeline = True,
    grammar: Grammar = True,
    headings: Annotated[bool, typer.Option("--headings/--no-headings", help="Put each part's title above it.")] = False,
    prompts: Annotated[Path | None, typer.Option("--prompts", metavar="FILE", help="Wordings in TOML.")] = None,
    concurrency: Annotated[int, typer.Option("--concurrency", min=1, help="Questions answered at once.")] = 4,
    temperature: Annotated[float, typer.Option("--temperature", min=0.0, max=2.0, help="0 is greedy.")] = 0.0,
    events: Annotated[
        Path | None, typer.Option("--events", metavar="FILE", help="Write what happened, as it was.")
    ] = None,
    chrome_trace: ChromeTrace = None,
    device: Device = "auto",
    dtype: DType = "auto",
    seed: Seed = 0,
    on_error: OnError = "fail",
    quiet: Quiet = False,
) -> None:
    """Answer questions, each as a graph of parts written in one batch; a part that fails is marked, with exit 1.

    Example: llmsys sgd-decode run questions.jsonl --mode sgd > answers.jsonl
    """
    from llmsys.sgd_decode import (
        DecodeSettings,
        Prompts,
        answer_line,
        answer_with_log,
        open_backend,
        read_questions,
        summary_row,
        write_timeline,
    )  # fmt: skip

    settings = DecodeSettings(
        mode=mode, pipeline=pipeline, grammar=grammar, max_nodes=max_nodes, node_tokens=node_tokens,
        answer_tokens=answer_tokens, temperature=temperature, seed=seed, headings=headings,
        prompts=Prompts.load(prompts),
    )  # fmt: skip
    asked = list(read_questions(questions, on_error=on_error, on_skip=lambda fault: note(f"skipped {fault}")))
    backend = open_backend(large, slots=max_batch, grammar=grammar, device=device, dtype=dtype, seed=seed)
    done = []
    with records_out(flush_each=True) as out, progress("questions", len(asked)) as advance:
        for answer in answer_with_log(asked, backend, settings, concurrency=concurrency, events=events):
            out.write(answer_line(answer, large))
            done.append(answer)
            advance(1)
    if chrome_trace is not None:
        write_timeline(chrome_trace, done)
    table([summary_row(answer) for answer in done], stderr=True)
    if any(answer.failed for answer in done):
        raise typer.Exit(1)


@app.command()
def plan(
    source: Annotated[
        str, typer.Argument(metavar="FILE", help="Questions, or with --from-text a plan; - is stdin.")
    ] = "-",
    *,
    from_text: Annotated[
        bool, typer.Option("--from-text", help="Read a plan that a model wrote; no model runs.")
    ] = False,
    form: Annotated[
        str,
        typer.Option("--format", help="text, json, dot or mermaid.", callback=one_of("text", "json", "dot", "mermaid")),
    ] = "text",
    large: Model = "embedded",
    max_nodes: MaxNodes = 10,
    grammar: Grammar = True,
    device: Device = "auto",
    dtype: DType = "auto",
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Print the plan of every question, or of a text as it stands, repaired; repairs go to stderr.

    Example: llmsys sgd-decode plan questions.jsonl --format mermaid
    """
    from llmsys.sgd_decode import DecodeSettings, open_backend, plan_texts, read_questions, read_text, view

    if from_text:
        found = [read_text(source, max_nodes=max_nodes)]
    else:
        backend = open_backend(large, slots=1, grammar=grammar, device=device, dtype=dtype, seed=seed)
        settings = DecodeSettings(grammar=grammar, max_nodes=max_nodes, seed=seed)
        found = plan_texts(list(read_questions(source)), backend, settings)
    for one in found:
        typer.echo(view(one, form))
        for repair in one.repairs:
            note(f"repair {repair}")


@app.command()
def compare(
    questions: Questions = "-",
    *,
    modes: Annotated[str, typer.Option("--modes", help="Modes, comma-separated.")] = "ar,sot,sgd-v1,sgd",
    large: Model = "embedded",
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
    """Answer the same questions in several modes, one at a time, and print latency and tokens side by side.

    A shorter answer is not a speed-up: compare tokens per second. Quality is not judged.

    Example: llmsys sgd-decode compare questions.jsonl --modes ar,sot,sgd --limit 8
    """
    from llmsys.sgd_decode import compare_modes, open_backend, read_questions

    asked = list(read_questions(questions))[:limit]
    backend = open_backend(large, slots=max_batch, grammar=grammar, device=device, dtype=dtype, seed=seed)
    with progress("questions", len(asked) * len(modes.split(","))) as advance:
        found = compare_modes(
            asked, backend, modes.split(","), node_tokens=node_tokens, answer_tokens=answer_tokens,
            max_nodes=max_nodes, grammar=grammar, seed=seed, on_answer=lambda: advance(1),
        )  # fmt: skip
    rows = [asdict(summary) for summary in found]
    report({"modes": rows}, rows, json=json)
