"""`llmsys sgd-decode run`: questions in, answers out."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmsys.cli._options import ChromeTrace, Device, DType, OnError, Plot, Quiet, Seed
from llmsys.cli._render import note, progress, table
from llmsys.cli._sgd_decode_options import (
    AnswerTokens,
    Clock,
    Deterministic,
    Escalate,
    EscalateBelow,
    Forward,
    FullPlan,
    Grammar,
    Headings,
    MaxNodes,
    MinGain,
    Mode,
    Model,
    NodeTokens,
    OnFlat,
    Pipeline,
    Planner,
    PromptsFile,
    Questions,
    RouterName,
    Slots,
    SmallModel,
    Temperature,
    Threshold,
    make_settings,
)  # fmt: skip
from llmsys.cli._streams import records_out

if TYPE_CHECKING:
    from llmsys.sgd_decode import Answer, Backend, DecodeSettings, Question, Router

__all__ = ["run"]

Concurrency = Annotated[int, typer.Option("--concurrency", min=1, help="Questions answered at once.")]
EventsFile = Annotated[Path | None, typer.Option("--events", metavar="FILE", help="Write what happened, as it was.")]


def run(
    questions: Questions = "-",
    *,
    mode: Mode = "sgd",
    large: Model = "embedded",
    small: SmallModel = None,
    threshold: Threshold = 2,
    planner: Planner = "large",
    escalate: Escalate = False,
    escalate_below: EscalateBelow = None,
    router: RouterName = "plan",
    max_batch: Slots = 8,
    max_nodes: MaxNodes = 10,
    node_tokens: NodeTokens = None,
    answer_tokens: AnswerTokens = 1024,
    pipeline: Pipeline = True,
    full_plan: FullPlan = "auto",
    forward: Forward = "full",
    min_gain: MinGain = 1.10,
    on_flat: OnFlat = "hint",
    grammar: Grammar = True,
    headings: Headings = False,
    prompts: PromptsFile = None,
    concurrency: Concurrency = 4,
    temperature: Temperature = 0.0,
    events: EventsFile = None,
    chrome_trace: ChromeTrace = None,
    plot: Plot = None,
    clock: Clock = "virtual",
    deterministic: Deterministic = False,
    device: Device = "auto",
    dtype: DType = "auto",
    seed: Seed = 0,
    on_error: OnError = "fail",
    quiet: Quiet = False,
) -> None:
    """Answer questions, each as a graph of parts written in one batch; a part that fails is marked, with exit 1.

    Step times of the model are measured at the first start and kept; they decide whether a plan promises a gain.

    Example: llmsys sgd-decode run questions.jsonl --mode sgd > answers.jsonl
    """
    from llmsys.sgd_decode import open_backend, open_router, read_questions, with_step_time

    settings = make_settings(
        mode=mode, small=small, threshold=threshold, planner=planner, escalate=escalate,
        escalate_below=escalate_below, forward=forward, prompts=prompts, pipeline=pipeline, full_plan=full_plan,
        grammar=grammar, max_nodes=max_nodes, node_tokens=node_tokens, answer_tokens=answer_tokens, min_gain=min_gain,
        on_flat=on_flat, temperature=temperature, seed=seed, headings=headings,
    )  # fmt: skip
    deciding = open_router(router, settings.prompts)
    asked = list(read_questions(questions, on_error=on_error, on_skip=lambda fault: note(f"skipped {fault}")))
    backend = open_backend(
        large, small=small, slots=max_batch, grammar=grammar, device=device, dtype=dtype, seed=seed,
        deterministic=deterministic, clock=clock,
    )  # fmt: skip
    done = _write_answers(asked, backend, with_step_time(settings, backend), deciding, large, concurrency, events)
    _conclude(done, chrome_trace, plot)


def _write_answers(
    asked: "list[Question]",
    backend: "Backend",
    settings: "DecodeSettings",
    router: "Router",
    model: str,
    concurrency: int,
    events: Path | None,
) -> "list[Answer]":
    """Answer lines on stdout as they come, a table on stderr."""
    from llmsys.sgd_decode import answer_line, answer_with_log, summary_row

    done = []
    with records_out(flush_each=True) as out, progress("questions", len(asked)) as advance:
        for answer in answer_with_log(asked, backend, settings, concurrency=concurrency, events=events, router=router):
            out.write(answer_line(answer, model))
            done.append(answer)
            advance(1)
    table([summary_row(answer) for answer in done], stderr=True)
    return done


def _conclude(done: "list[Answer]", chrome_trace: Path | None, plot: Path | None) -> None:
    """Write what is drawn of all answers; exit with 1 where a part of one is missing."""
    from llmsys.cli._sgd_decode_gantt import draw_gantt
    from llmsys.sgd_decode import write_timeline

    if chrome_trace is not None:
        write_timeline(chrome_trace, done)
    if plot is not None:
        draw_gantt(done, plot)
    if any(answer.failed for answer in done):
        raise typer.Exit(1)
