"""Options that several verbs of `llmsys sgd-decode` take, and the settings that they make."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmsys.cli._options import one_of

if TYPE_CHECKING:
    from llmsys.sgd_decode import DecodeSettings

__all__ = [
    "AnswerTokens",
    "Clock",
    "Deterministic",
    "Escalate",
    "EscalateBelow",
    "Forward",
    "FullPlan",
    "Grammar",
    "Headings",
    "MaxNodes",
    "MinGain",
    "Mode",
    "Model",
    "NodeTokens",
    "OnFlat",
    "Pipeline",
    "Planner",
    "PromptsFile",
    "Questions",
    "RouterName",
    "Slots",
    "SmallModel",
    "Temperature",
    "Threshold",
    "make_settings",
]

MODES = ("auto", "ar", "sot", "sgd", "sgd-v1")
Questions = Annotated[
    str, typer.Argument(metavar="FILE", help="OpenAI batch lines, or {id, question} lines; - is stdin.")
]
Model = Annotated[
    str,
    typer.Option(
        "--large",
        metavar="MODEL",
        help="embedded, a model directory, a .gguf file, URL#model, or script:FILE of recorded texts.",
    ),
]
SmallModel = Annotated[
    str | None, typer.Option("--small", metavar="MODEL", help="A second, smaller model for the easy parts.")
]
Threshold = Annotated[
    int, typer.Option("--threshold", min=0, max=5, help="Parts up to this level go to the small model.")
]
Planner = Annotated[
    str, typer.Option("--planner", help="Who writes the plan: large or small.", callback=one_of("large", "small"))
]
Escalate = Annotated[
    bool,
    typer.Option("--escalate/--no-escalate", help="Parts that the small model is unsure of are written by the large."),
]
EscalateBelow = Annotated[
    float | None,
    typer.Option(
        "--escalate-below",
        help="Mean log-probability below which a part is unsure; by default the 20th percentile of those seen.",
    ),
]
Slots = Annotated[int, typer.Option("--max-batch", min=1, help="Texts written at once.")]
MaxNodes = Annotated[int, typer.Option("--max-nodes", min=2, help="Most parts of a plan.")]
NodeTokens = Annotated[
    int | None, typer.Option("--node-tokens", min=1, help="Most tokens of a part; by default 96 to 320 by its level.")
]
AnswerTokens = Annotated[int, typer.Option("--answer-tokens", min=1, help="Most tokens of an answer in one piece.")]
Grammar = Annotated[bool, typer.Option("--grammar/--no-grammar", help="Hold the plan to its form while it is decoded.")]
Mode = Annotated[str, typer.Option("--mode", help=f"{', '.join(MODES[:-1])} or {MODES[-1]}.", callback=one_of(*MODES))]
Pipeline = Annotated[
    bool, typer.Option("--pipeline/--no-pipeline", help="Start parts while the plan is still being written.")
]
FullPlan = Annotated[
    str,
    typer.Option(
        "--full-plan",
        help="Parts that see the whole plan: always, never, or auto, those for which its rest is short.",
        callback=one_of("auto", "always", "never"),
    ),
]
Forward = Annotated[
    str,
    typer.Option(
        "--forward", metavar="HOW", help="What a part sees of its parents: full, none, or summary:N, N tokens each end."
    ),
]
MinGain = Annotated[
    float,
    typer.Option("--min-gain", min=0.0, help="Least predicted speed-up of a plan; 0 splits whatever has two parts."),
]
OnFlat = Annotated[
    str,
    typer.Option(
        "--on-flat", help="A plan without gain is a hint for the answer, or dropped.", callback=one_of("hint", "drop")
    ),
]
RouterName = Annotated[
    str,
    typer.Option(
        "--router",
        metavar="HOW",
        help="Mode auto: plan (both forms until it decides), model (it is asked), or a file of labelled questions.",
    ),
]
Deterministic = Annotated[
    bool,
    typer.Option("--deterministic", help="On the engine, the same tokens for every --max-batch; slower."),
]
Clock = Annotated[
    str,
    typer.Option(
        "--clock", help="Time of a script: virtual, or real to wait for it.", callback=one_of("virtual", "real")
    ),
]
Headings = Annotated[bool, typer.Option("--headings/--no-headings", help="Put each part's title above it.")]
PromptsFile = Annotated[Path | None, typer.Option("--prompts", metavar="FILE", help="Wordings in TOML.")]
Temperature = Annotated[float, typer.Option("--temperature", min=0.0, max=2.0, help="0 is greedy.")]


def make_settings(
    *,
    mode: str,
    small: str | None,
    threshold: int,
    planner: str,
    escalate: bool,
    escalate_below: float | None,
    forward: str,
    prompts: Path | None,
    **rest: object,
) -> "DecodeSettings":
    """The library's settings from a verb's options; `rest` are those that have the same name there."""
    from dataclasses import replace

    from llmsys.errors import UsageFault
    from llmsys.sgd_decode import DecodeSettings, Forwarding, Prompts, Routing

    if small is None and (planner == "small" or escalate):
        raise UsageFault("--planner small and --escalate need a second model; expected --small MODEL")
    routing = Routing(
        small is not None, threshold, "small" if planner == "small" else "large", escalate, escalate_below
    )
    made = DecodeSettings(mode=mode, routing=routing, forward=Forwarding.parse(forward), prompts=Prompts.load(prompts))
    return replace(made, **rest)  # type: ignore[arg-type]
