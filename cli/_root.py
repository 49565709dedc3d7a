"""The root of the command line: its three options and the lazy commands under it.

Knows names and help lines; a command's own module loads when it is called. Knows no system.
"""

import sys
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from llmsys import __version__
from llmsys.cli._commands import LazyCommand, hide_environment, lazy_commands
from llmsys.cli._config import read_config
from llmsys.errors import LlmsysError

__all__ = ["command_path", "root_group"]


class _Root(TyperGroup):
    """The root group, with one lazy command per line of COMMANDS."""

    def __init__(self, **settings: Any) -> None:  # noqa: ANN401
        super().__init__(**settings)
        for command in lazy_commands():
            self.add_command(command)

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]  # noqa: ANN401
        """Run the verb; Typer would say nothing of a broken pipe that is not stdout, nor of an early end of input."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise LlmsysError("a process or server that this verb writes to went away") from error
        except EOFError as error:
            raise LlmsysError("an input ended before it was whole") from error


app = typer.Typer(
    name="llmsys",
    cls=_Root,
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "LLMSYS"},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"llmsys {__version__}\n")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE.toml", help="Defaults of options: a table [COMMAND.VERB] per verb."),
    ] = None,
) -> None:
    """Systems of large-model serving, training and retrieval, one command each.

    An option's value comes from the command line, else from LLMSYS_COMMAND_VERB_OPTION, else from --config, else its
    default. `llmsys doctor` says what this machine offers.
    """
    if config is not None:
        context.default_map = read_config(config, root_group(), str(context.invoked_subcommand))


@cache
def root_group() -> TyperGroup:
    """The root group with its lazy commands, for `main`, man pages and tests."""
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    hide_environment(group)
    for option in group.params:
        # LLMSYS_VERSION in a build's environment must not be taken for --version
        option.allow_from_autoenv = option.name == "config"  # type: ignore[attr-defined]
    return group


def command_path(args: list[str]) -> str:
    """The words of `args` that name the command and its verb, as errors print them; loads nothing.

    >>> command_path(["--config", "defaults.toml", "vindex", "--help"])
    'llmsys vindex'
    """
    path, group = ["llmsys"], root_group()
    rest = iter(args)
    for word in rest:
        if group is root_group() and word.startswith("-"):
            if word == "--config":
                next(rest, None)
            continue
        command = group.commands.get(word)
        if command is None:
            break
        path.append(word)
        loaded = command.loaded if isinstance(command, LazyCommand) else command
        if not isinstance(loaded, TyperGroup):
            break
        group = loaded
    return " ".join(path)
