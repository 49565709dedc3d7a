"""`llmsys sgd-decode plan`: questions or texts in, plans out."""

from typing import Annotated

import typer

from llmsys.cli._options import Device, DType, OnError, Quiet, Seed, one_of
from llmsys.cli._render import note
from llmsys.cli._sgd_decode_options import Grammar, MaxNodes, Model

__all__ = ["plan"]


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
    on_error: OnError = "fail",
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
        asked = list(read_questions(source, on_error=on_error, on_skip=lambda fault: note(f"skipped {fault}")))
        found = plan_texts(asked, backend, settings)
    for one in found:
        typer.echo(view(one, form))
        for repair in one.repairs:
            note(f"repair {repair}")
