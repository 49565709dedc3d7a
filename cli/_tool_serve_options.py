"""Options that several verbs of `llmsys tool-serve` take."""

from typing import Annotated

import typer

from llmsys.cli._options import one_of

__all__ = ["FORMAT_NAMES", "Format", "Sandbox", "ToolSpecs"]

FORMAT_NAMES = (
    *("auto", "hermes", "qwen3_coder", "llama3_json", "pythonic", "mistral", "deepseek_v3", "harmony"),
    *("functionary", "glm45", "openai", "json", "fence:python"),
)
Format = Annotated[
    str,
    typer.Option(
        "--format", help=f"How the model writes calls: {', '.join(FORMAT_NAMES)}.", callback=one_of(*FORMAT_NAMES)
    ),
]
ToolSpecs = Annotated[
    list[str] | None,
    typer.Option(
        "--tools",
        metavar="SPEC",
        help="builtin:NAME[=PLACE],…, module.py, package:object, tools.json, mcp:stdio:COMMAND or mcp:URL; may repeat.",
    ),
]
Sandbox = Annotated[
    str,
    typer.Option(
        "--sandbox",
        help="Where programs run: auto (bubblewrap, else landlock), either by name, or rlimits (bounded only).",
        callback=one_of("auto", "bubblewrap", "landlock", "rlimits"),
    ),
]
