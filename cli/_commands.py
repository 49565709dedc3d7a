"""The nine commands: a name, a line of help, and whether the tree holds them yet.

Loads a command's module only when it is called; knows nothing about what a command does.
"""

from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from typer.core import TyperGroup
from typer.main import get_group

from llmsys.errors import Unavailable

__all__ = ["COMMANDS", "LazyCommand", "is_built", "lazy_commands", "verbs_of"]

COMMANDS = {
    "compress": "Weights, KV caches and gradients through video and tensor codecs.",
    "serve-lora": "Many LoRA adapters on one base model, in one batch.",
    "fair-queue": "Fair scheduling of tenants by tokens served.",
    "tool-serve": "Tool calls that start while the model still writes them.",
    "sgd-decode": "Answers as dependency graphs of parts, decoded in parallel.",
    "moe-train": "Elastic mixture-of-experts training that survives failures.",
    "vindex": "One in-memory vector index for many tenants.",
    "pse-hash": "Dynamic kernel-density estimates, robust to adaptive queries.",
    "al-sample": "Which points to label, with which weights, and the fit.",
    "doctor": "What this machine offers: device, encoders, packages, ceilings.",
}
NOT_BUILT = "(not built yet)"


def module_of(name: str) -> str:
    """The module that holds the command's Typer app."""
    return f"llmsys.cli.{name.replace('-', '_')}"


def is_built(name: str) -> bool:
    """Whether this tree holds the command: its module exists. Nothing is imported."""
    return find_spec(module_of(name)) is not None


class LazyCommand(TyperGroup):
    """A name and a help line, until it is called or completed."""

    loaded: TyperGroup | None = None

    def load(self) -> TyperGroup:
        """The real command group. Raises Unavailable (exit 69) for a command that is not built."""
        if self.loaded is None:
            name = str(self.name)
            if not is_built(name):
                built = ", ".join(other for other in COMMANDS if is_built(other))
                raise Unavailable("this command is not built yet", f"commands that work: {built or 'none'}")
            group = get_group(import_module(module_of(name)).app)
            group.name = name
            hide_environment(group)
            self.loaded = group
        return self.loaded

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:  # noqa: ANN401
        """Parse the command's arguments with its real group, loaded now; completion of an unbuilt one finds nothing."""
        if extra.get("resilient_parsing") and not is_built(str(self.name)):
            return super().make_context(info_name, args, parent=parent, **extra)
        return self.load().make_context(info_name, args, parent=parent, **extra)


def hide_environment(command: Any) -> None:  # noqa: ANN401
    """Keep the environment variable of every option, all made by one rule, out of its help line."""
    for parameter in command.params:
        parameter.show_envvar = False
    for verb in getattr(command, "commands", {}).values():
        hide_environment(verb)


def verbs_of(group: Any) -> Iterator[tuple[str, Any]]:  # noqa: ANN401
    """Every verb of a loaded command by the words that call it, those of its groups as `trace import`."""
    for name, command in group.commands.items():
        if command.hidden:
            continue
        if isinstance(command, TyperGroup):
            yield from ((f"{name} {verb}", leaf) for verb, leaf in verbs_of(command))
        else:
            yield name, command


def lazy_commands() -> Iterator[LazyCommand]:
    """One unloaded command per line of COMMANDS."""
    for name, line in COMMANDS.items():
        help_line = line if is_built(name) else f"{NOT_BUILT} {line}"
        yield LazyCommand(name=name, help=help_line, short_help=help_line, rich_markup_mode=None)
