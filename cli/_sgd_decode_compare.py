"""`llmsys sgd-decode compare`: the same questions in several modes, side by side."""

from dataclasses import asdict
from typing import Annotated

import typer

from llmsys.cli._options import Device, DType, Json, Quiet, Seed
from llmsys.cli._render import progress, report
from llmsys.cli._sgd_decode_options import AnswerTokens, Grammar, MaxNodes, Model, NodeTokens, Questions, Slots

__all__ = ["compare"]


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
